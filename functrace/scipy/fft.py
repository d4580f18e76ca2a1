"""jax.scipy.fft, lifted."""

from __future__ import annotations

from jax.scipy import fft

from functrace.tracing import lift

dct = lift(fft.dct)
dctn = lift(fft.dctn)
idct = lift(fft.idct)
idctn = lift(fft.idctn)
