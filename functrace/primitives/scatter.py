"""Windows of an array combined with updates otherwise than by adding them: see `gather_scatter`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax

from functrace.errors import RuleError
from functrace.ir import Atom, Aval, Primitive, Sample, Undefined, Work, primitive
from functrace.primitives.comparison import eq
from functrace.primitives.elementwise import I32, add, mul, neg, sub
from functrace.primitives.gather_scatter import ScatterFamily, scatter_samples
from functrace.primitives.quotients import div
from functrace.primitives.selection import where
from functrace.primitives.space import broadcast_to, full, reshape, zeros
from functrace.primitives.structural import iota

U32 = np.dtype(np.uint32)


@primitive
class ScatterSub(ScatterFamily):
    """Subtracts each window of the updates."""

    name = "scatter_sub"
    jax_names = ("scatter-sub",)
    combine = staticmethod(lax.scatter_sub)

    def samples(self) -> Iterator[Sample]:
        return scatter_samples(ScatterSub)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        ct_x, _, ct_updates = self.adder().transpose(ct, *xs)
        return [ct_x, None, None if ct_updates is None else neg(ct_updates)]


@primitive
class Scatter(ScatterFamily):
    """Replaces each window; where updates meet one wins, and it is not said which."""

    name = "scatter"
    replaces = True
    jvp_has_value = True
    work_each = Work(0)
    jax_names = ("scatter",)
    combine = staticmethod(lax.scatter)

    def samples(self) -> Iterator[Sample]:
        return scatter_samples(Scatter)

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
        if not self.unique_indices:
            return None
        rule = self.series_along(xs, ys)
        return lambda k: rule(k) if k else self(*[x.value for x in xs])

    def surviving(self, x: Aval, indices: Atom, updates: Aval) -> tuple[Atom, Atom]:
        """Where `x` keeps its values and where updates win: scatter their numbers, and look."""
        shape = tuple(1 if d in self.update_window_dims else n for d, n in enumerate(updates.shape))
        count = int(np.prod(shape))
        numbers = add(reshape(iota(U32, (count,), 0), shape), 1)
        numbers = broadcast_to(numbers, updates.shape)
        written = self(full(Aval(x.shape, U32), 0), indices, numbers)
        return eq(written, 0), eq(self.reader(x, updates)(written, indices), numbers)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        if self.unique_indices:
            return super().jvp(xs, dxs)
        # Value and tangent must agree on the winner: both are sums in which all others are zero.
        x, indices, updates = xs
        kept, won = self.surviving(x.aval, indices, updates.aval)
        total = self.adder()
        y = total(where(kept, x, 0), indices, where(won, updates, 0))
        dx, _, du = dxs
        dx = zeros(x.aval) if dx is None else where(kept, dx, 0)
        du = zeros(updates.aval) if du is None else where(won, du, 0)
        return y, total(dx, indices, du)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x, indices, updates = xs
        linear = isinstance(x, Undefined), isinstance(updates, Undefined)
        read = self.reader(x.aval, updates.aval)(ct, indices) if linear[1] else None
        if self.unique_indices:
            kept = self(ct, indices, zeros(updates.aval)) if linear[0] else None
            return [kept, None, read]
        keeps, won = self.surviving(x.aval, indices, updates.aval)
        return [
            where(keeps, ct, 0) if linear[0] else None,
            None,
            where(won, read, 0) if linear[1] else None,
        ]


@primitive
class ScatterMul(ScatterFamily):
    """Multiplies by each window; linear in `x`, and in the updates if indices are unique."""

    name = "scatter_mul"
    jax_names = ("scatter-mul",)
    singular = True  # the factors may be anything
    combine = staticmethod(lax.scatter_mul)

    def samples(self) -> Iterator[Sample]:
        return scatter_samples(ScatterMul, repeats=False)

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        return Primitive.presence(self, cts, *xs)

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
        return None if xs[2].moves else super().series(xs, ys)

    def check_unique(self) -> None:
        """Raise where the derivative in the updates is not implemented."""
        if not self.unique_indices:
            raise RuleError(
                "scatter_mul has a derivative in its updates only where indices are unique: pass "
                "unique_indices=True if they are"
            )

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        x, indices, updates = xs
        dx, _, du = dxs
        dy = None if dx is None else self(dx, indices, updates)
        if du is not None:
            self.check_unique()
            term = mul(x, self.adder()(zeros(x.aval), indices, du))
            dy = term if dy is None else add(dy, term)
        return self(*xs), dy

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x, indices, updates = xs
        if isinstance(x, Undefined):
            return [self(ct, indices, updates), None, None]
        self.check_unique()
        return [None, None, self.reader(x.aval, updates.aval)(mul(ct, x), indices)]


class ScatterExtreme(ScatterFamily):
    """scatter_min, scatter_max: the derivative is shared evenly by all that attain the result."""

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        x, indices, updates = xs
        dx, _, du = dxs
        y = self(*xs)
        read, total = self.reader(x.aval, updates.aval), self.adder()
        reached = read(y, indices)
        hit, kept = eq(updates, reached), eq(read(x, indices), reached)
        ones, none = full(updates.aval, 1), zeros(updates.aval)

        hits = read(total(zeros(x.aval), indices, where(hit, ones, none)), indices)
        share = div(1.0, add(hits, where(kept, ones, none)))
        change = None
        if dx is not None:
            # What x loses at a place is divided among the updates there, which are then added.
            writers = read(total(zeros(x.aval), indices, ones), indices)
            writers = where(eq(writers, 0), 1, writers)  # windows that were dropped have none
            change = mul(read(dx, indices), div(sub(where(kept, share, none), 1.0), writers))
        if du is not None:
            gain = mul(du, where(hit, share, none))
            change = gain if change is None else add(change, gain)
        assert change is not None  # one of the operands moves
        return y, total(zeros(x.aval) if dx is None else dx, indices, change)


@primitive
class ScatterMin(ScatterExtreme):
    """The least of the value and the updates at each place."""

    name = "scatter_min"
    jax_names = ("scatter-min",)
    combine = staticmethod(lax.scatter_min)

    def samples(self) -> Iterator[Sample]:
        return scatter_samples(ScatterMin, (I32,))


@primitive
class ScatterMax(ScatterExtreme):
    """The greatest of the value and the updates at each place."""

    name = "scatter_max"
    jax_names = ("scatter-max",)
    combine = staticmethod(lax.scatter_max)

    def samples(self) -> Iterator[Sample]:
        return scatter_samples(ScatterMax, (I32,))
