"""NumPy's universal functions: a function of scalars applied entry by entry, with reduce, accumulate, ..."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from functrace.ir import Aval, Program
from functrace.lower.evaluate import evaluate
from functrace.numpy.functional import vectorize
from functrace.tracing import aval_of, lift, trace
from functrace.tracing.lift import call_lifted

METHODS = ("accumulate", "at", "outer", "reduce", "reduceat")


class ufunc:
    """A function of scalars, applied to arrays entry by entry.

    Args:
      func: a function of `nin` scalars to `nout` scalars; it may close over tracers.
      nin: number of operands.
      nout: number of results.
      name: what messages call it; by default its own name.
      identity: what a reduction of no entries gives.
    """

    def __init__(
        self, func: Callable[..., Any], nin: int, nout: int, *, name: str | None = None, identity: Any = None
    ):
        self.func = func
        self.nin = nin
        self.nout = nout
        self.nargs = nin + nout
        self.identity = identity
        self.__name__ = name or getattr(func, "__name__", type(func).__name__)
        self.__doc__ = func.__doc__

    def __repr__(self) -> str:
        return f"<functrace.numpy.ufunc {self.__name__!r}>"

    def __call__(self, *args: Any) -> Any:
        return vectorize(self.func)(*args)

    def reduce(
        self, a: Any, axis: int | None = 0, dtype: Any = None, out: None = None, keepdims: bool = False,
        initial: Any = None, where: Any = None,
    ) -> Any:  # fmt: skip
        """The entries along `axis` combined from the first to the last."""
        dtype = dtype or self.result_dtype(a, a)
        operands = {"initial": initial, "where": where}
        return self.method("reduce", dtype, a, axis=axis, dtype=dtype, out=out, keepdims=keepdims, **operands)

    def accumulate(self, a: Any, axis: int = 0, dtype: Any = None, out: None = None) -> Any:
        """What `reduce` has after each entry along `axis`."""
        dtype = dtype or self.result_dtype(a, a)
        return self.method("accumulate", dtype, a, axis=axis, dtype=dtype, out=out)

    def at(self, a: Any, indices: Any, b: Any = None, /, *, inplace: bool = True) -> Any:
        """A copy of `a`, each entry at `indices` replaced by its value (with the entry of `b`); `inplace=False`."""
        operands = (a,) if b is None else (a, b)
        return self.method("at", self.result_dtype(*operands), a, indices, *operands[1:], inplace=inplace)

    def reduceat(self, a: Any, indices: Any, axis: int = 0, dtype: Any = None, out: None = None) -> Any:
        """`reduce` of the sections of `axis` that begin at `indices`."""
        return self.method("reduceat", dtype or aval_of(a).dtype, a, indices, axis=axis, dtype=dtype, out=out)

    def outer(self, a: Any, b: Any, /) -> Any:
        """The value at every pair of an entry of `a` and an entry of `b`."""
        a, b = asarray(a), asarray(b)
        return self(a.reshape(a.shape + (1,) * b.ndim), b)

    def traced(self, *dtypes: Any) -> Any:
        """The function's Program at scalars, and what it closes over."""
        scalars = [Aval((), dtype) for dtype in dtypes]
        values = [jax.ShapeDtypeStruct((), dtype) for dtype in dtypes]
        return trace(self.func, values, transform=self.__name__, avals=scalars)

    def result_dtype(self, *operands: Any) -> Any:
        """Type of the result for operands of these types."""
        return self.traced(*[aval_of(x).dtype for x in operands]).program.out_avals[0].dtype

    def method(self, name: str, dtype: Any, /, *args: Any, **kwargs: Any) -> Any:
        """jax.numpy.ufunc's method, with the function as a Program and what it closes over as operands."""
        program, captures, _ = self.traced(*[dtype] * self.nin)
        fun = Method(name, program, self.nin, self.identity)
        return call_lifted(f"{self.__name__}.{name}", fun, (captures, *args), kwargs)


asarray = lift(jnp.asarray)


@dataclass(frozen=True)
class Method:
    """jax.numpy.ufunc's method `name` for the function that a Program is of its last inputs."""

    name: str
    program: Program
    nin: int
    identity: Any

    def __call__(self, captures: Any, *args: Any, **kwargs: Any) -> Any:
        dtypes = [a.dtype for a in self.program.in_avals[len(captures) :]]

        def of_scalars(*xs: Any) -> Any:
            scalars = [jnp.asarray(x, dtype) for x, dtype in zip(xs, dtypes, strict=True)]
            return evaluate(self.program, [*captures, *scalars])[0]

        jax_ufunc = jnp.frompyfunc(of_scalars, self.nin, 1, identity=self.identity)
        return getattr(jax_ufunc, self.name)(*args, **kwargs)


class LiftedUfunc(ufunc):
    """A universal function of jax.numpy, lifted with its methods."""

    def __init__(self, jax_ufunc: Any):
        super().__init__(lift(jax_ufunc), jax_ufunc.nin, jax_ufunc.nout, name=jax_ufunc.__name__)
        self.identity = jax_ufunc.identity
        self.__doc__ = jax_ufunc.__doc__
        self.lifted = {name: lift(getattr(jax_ufunc, name), f"{self.__name__}.{name}") for name in METHODS}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)

    def reduce(self, *args: Any, **kwargs: Any) -> Any:
        return self.lifted["reduce"](*args, **kwargs)

    def accumulate(self, *args: Any, **kwargs: Any) -> Any:
        return self.lifted["accumulate"](*args, **kwargs)

    def at(self, *args: Any, **kwargs: Any) -> Any:
        return self.lifted["at"](*args, **kwargs)

    def reduceat(self, *args: Any, **kwargs: Any) -> Any:
        return self.lifted["reduceat"](*args, **kwargs)

    def outer(self, *args: Any, **kwargs: Any) -> Any:
        return self.lifted["outer"](*args, **kwargs)


def frompyfunc(func: Callable[..., Any], /, nin: int, nout: int, *, identity: Any = None) -> ufunc:
    """The universal function of a function of `nin` scalars to `nout` scalars.

    >>> import functrace as ft, numpy as np
    >>> longest = ft.numpy.frompyfunc(lambda x, y: ft.numpy.hypot(x, y), 2, 1)
    >>> longest.reduce(np.array([2.0, 3.0, 6.0])).item()
    7.0
    """
    return ufunc(func, nin, nout, identity=identity)
