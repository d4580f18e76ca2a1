"""jax.scipy.signal, lifted."""

from __future__ import annotations

from jax.scipy import signal

from functrace.tracing import lift

convolve = lift(signal.convolve)
convolve2d = lift(signal.convolve2d)
correlate = lift(signal.correlate)
correlate2d = lift(signal.correlate2d)
csd = lift(signal.csd)
detrend = lift(signal.detrend)
fftconvolve = lift(signal.fftconvolve)
istft = lift(signal.istft)
stft = lift(signal.stft)
welch = lift(signal.welch)
