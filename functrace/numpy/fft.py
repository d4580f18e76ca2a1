"""jax.numpy.fft, lifted."""

from __future__ import annotations

import jax.numpy as jnp

from functrace.tracing import lift

fft = lift(jnp.fft.fft)
fft2 = lift(jnp.fft.fft2)
fftfreq = lift(jnp.fft.fftfreq)
fftn = lift(jnp.fft.fftn)
fftshift = lift(jnp.fft.fftshift)
hfft = lift(jnp.fft.hfft)
ifft = lift(jnp.fft.ifft)
ifft2 = lift(jnp.fft.ifft2)
ifftn = lift(jnp.fft.ifftn)
ifftshift = lift(jnp.fft.ifftshift)
ihfft = lift(jnp.fft.ihfft)
irfft = lift(jnp.fft.irfft)
irfft2 = lift(jnp.fft.irfft2)
irfftn = lift(jnp.fft.irfftn)
rfft = lift(jnp.fft.rfft)
rfft2 = lift(jnp.fft.rfft2)
rfftfreq = lift(jnp.fft.rfftfreq)
rfftn = lift(jnp.fft.rfftn)
