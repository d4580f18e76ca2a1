"""What a primitive is: a record whose fields are its parameters and whose methods are its rules.

A primitive applied to its parameters hashes, prints and checks itself. Two forms:

- without parameters, one instance: `sin = unary("sin", ...)`; equality is identity;
- with parameters, a class under `@primitive`, which makes it a frozen dataclass:
  `Reshape(shape=(2, 3))`. Parameters are plain values: int, float, bool, str, None, dtype,
  Program, and tuples of these, so that every Program has a text that reads back.

Rules compute with atoms (`Var`, `Literal`) and emit into the ambient Builder by calling primitives:
`mul(x, cos(y))`. A tangent or cotangent that is zero is `None`, and never an array.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar, dataclass_transform

from functrace.errors import RuleError
from functrace.ir.aval import Aval

if TYPE_CHECKING:
    from functrace.ir.builder import Builder
    from functrace.ir.dependence import Matrix, Site, Writes
    from functrace.ir.program import Atom, Equation, Program
    from functrace.ir.python import Python
    from functrace.rewrites.laplacian import Directions
    from functrace.rewrites.thread import Thread


class Undefined(NamedTuple):
    """Marks an operand that a transpose rule is linear in: a type with no value."""

    aval: Aval


class Masked(NamedTuple):
    """A cotangent `value` with entries that are absent: they stay zero whatever they are multiplied by.

    `there` says which are not, a `Presence` of `primitives.selection`. The others hold zeros, or anything if `dirty`:
    by factors in which no pole is seen if `ordinary`, so that what is absent by chance holds zeros still.
    """

    value: Any
    there: Any
    dirty: bool = False
    ordinary: bool = False

    def clean(self) -> Any:
        """The value with zeros where it is absent."""
        if not self.dirty:
            return self.value
        return (self.there.sure if self.ordinary else self.there).zeroed(self.value)


class Through(NamedTuple):
    """What a rule says of a result by way of an operand: what `how` makes of the same of `x`."""

    x: Any
    how: Callable[[Any], Any] = lambda of_x: of_x


class Sample(NamedTuple):
    """Operands on which the laws of a primitive are tested.

    `operands` are avals (random values are drawn) or concrete arrays; `differentiable=False` marks a
    point where the derivative does not exist or the law of numerical derivatives does not apply;
    `real` draws from [0.2, 2) of either sign, `positive` from [0.6, 1.5), `unit` from [0.09, 0.9) of
    either sign, `above_one` from [1.1, 2). Operands in `fixed` have no derivative;
    `order=1` says that there is no second one.
    """

    primitive: Primitive
    operands: tuple[Any, ...]
    domain: str = "real"  # "real", "positive", "unit", "above_one"
    differentiable: bool = True
    fixed: tuple[int, ...] = ()
    order: int = 2


@dataclass(frozen=True)
class Work:
    """How many operations something takes: arithmetic ones, and transcendental ones (exp, sqrt, sin), which XLA
    counts apart."""

    flops: int
    transcendentals: int = 0

    @property
    def total(self) -> int:
        """Operations of both kinds."""
        return self.flops + self.transcendentals

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.transcendentals + other.transcendentals)

    def __mul__(self, times: int) -> Work:
        return Work(self.flops * times, self.transcendentals * times)


class Run(NamedTuple):
    """A Program that a primitive runs, and how often; None where only running it tells."""

    program: Program
    times: int | None = 1


@dataclass(frozen=True)
class Member:
    """A parameter's value that has a name of its own: `FftType.RFFT`."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}"


class Foreigners(Protocol):
    """Who knows the dtypes and primitives that are the backend's own."""

    def dtype(self, name: str) -> Any:
        """The dtype of a name such as `key<fry>`, or None."""
        ...

    def primitive(self, name: str, params: dict[str, Any], out_avals: tuple[Aval, ...]) -> Primitive:
        """The primitive of an equation whose text is read; ProgramError where there is none."""
        ...


class Primitive:
    """One primitive operation, applied to its parameters."""

    name: str
    multiple_results: ClassVar[bool] = False
    has_effects: bool = False
    observed: ClassVar[bool] = False  # whether its one effect is that `rewrites.collect` sees its operand
    commutative: bool = False
    keeps_values: bool = False  # whether its result has the values of its operand, moved, repeated, or negated
    keeps_type_of: int = 0  # so many operands of one type, whatever it is, give a result of that type; 0: not so
    readable_text: bool = True  # whether its text reads back
    masks: ClassVar[bool] = False  # whether its transpose leaves entries of the cotangent out
    singular: ClassVar[bool] = True  # whether its transpose may make a NaN of zeros
    locally_linear: bool = False  # whether its derivative is the same at all points nearby
    pushes_inner: ClassVar[bool] = False  # whether its jvp is that of its `inner` Programs, on its last operands
    jvp_has_value: bool = False  # whether the value that its `jvp` gives need not be its own
    at_once: ClassVar[bool] = False  # whether all coefficients of a series come together, by `series_at_once`
    scales: bool = False  # whether its result is a product or a quotient of its operands: zero times Inf is NaN
    has_pole: bool = False  # whether the result may be infinite at ordinary numbers
    picks: ClassVar[bool] = False  # whether each entry of the result is one of an operand's
    stands_alone: ClassVar[bool] = True  # whether its operands can be any values of their types
    analytic: bool = True  # whether its derivative in complex numbers is one number: it conjugates nothing
    goes_forward: bool = True  # whether forward mode gives what reverse mode does: nothing watches its cotangents
    named: ClassVar[dict[str, Any]] = {}  # what `Program.parse` reads a name as
    foreign: ClassVar[Foreigners]  # and one that begins with `foreign.`
    work_each: ClassVar[Work] = Work(1)  # what an entry of the results takes
    fuses: ClassVar[bool] = False  # whether it is so cheap that XLA computes it again in each kernel that reads it
    jax_names: ClassVar[tuple[str, ...]] = ()  # JAX's primitives that this one stands for
    spelling: ClassVar[str] = ""  # in Python: "lax.reshape({0}, {new_shape})"

    def __call__(self, *operands: Atom) -> Any:
        """Emit into the ambient Builder: an atom, or a tuple of them if `multiple_results`."""
        outputs = ambient().emit(self, operands)
        return outputs if self.multiple_results else outputs[0]

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name."""
        return {}

    @property
    def text_params(self) -> dict[str, Any]:
        """The parameters as values that have a text."""
        return self.params

    def __repr__(self) -> str:
        params = ", ".join(f"{k}={v!r}" for k, v in self.params.items())
        return f"{self.name}[{params}]" if params else self.name

    def samples(self) -> Iterator[Sample]:
        """Operands on which every law is tested. No samples, no primitive.

        Nothing of `self` is read: the samples of a class are `cls.samples(None)`, and each names its
        own primitive with parameters.
        """
        raise RuleError(f"{self.name} has no samples")

    # Each rule below has the same form for every primitive.

    def shape(self, *xs: Aval) -> Any:
        """The type of the result: an Aval, or a tuple of them if `multiple_results`."""
        raise RuleError(f"{self.name} has no shape rule")

    def lower(self, *xs: Any) -> Any:
        """Compute with `jax.lax`: an array, or a sequence of them if `multiple_results`."""
        raise RuleError(f"{self.name} has no lowering")

    def fold(self, *xs: Any) -> Any:
        """The value for literal operands, as a NumPy scalar, or None to leave the equation."""
        return None

    def simplify(self, builder: Builder, *xs: Atom) -> Any:
        """An atom (a tuple, if `multiple_results`) that equals the result exactly, or None."""
        return None

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        """`(ys, dys)` from primals and tangents; lists of them if `multiple_results`."""
        raise RuleError(f"{self.name} has no derivative")

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        """As `jvp`, but no equation may mix values that depend on `dxs` with ones that do not."""
        return self.jvp(xs, dxs)

    def laplacian(
        self, at: Directions, xs: Sequence[Any], js: Sequence[Any], ls: Sequence[Any]
    ) -> tuple[Any, Any, Any]:
        """`(ys, jys, lys)`: the results, their derivatives along directions, a leading axis, and their Laplacians.

        `js` and `ls` are those of the operands. By default by the derivative of the derivative. Lists if
        `multiple_results`. See rewrites.laplacian.
        """
        ys, jys, lys = at.push(self, xs, js, ls)
        lys = [at.total(*pair) for pair in zip(lys, at.bend(self, xs, js), strict=True)]
        return (ys, jys, lys) if self.multiple_results else (ys[0], jys[0], lys[0])

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        """Axes of operand i along which the result is made entry by entry, none of which reads another one.

        Each with the axis of the result that it is, and its size; several, where it is split.
        """
        return {}

    def is_entrywise(self, *xs: Aval) -> bool:
        """Whether an entry of the result depends on the same one of each operand alone, as numbers of one kind."""
        return False

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Callable[[int], Any] | None:
        """The coefficients of t ** k in the results, for operands that are power series; see `rewrites.series`.

        `xs[i][k]` is a coefficient of operand i, None where zero, `xs[i].moves` whether there are any beyond the first,
        and `ys` are the results, of which those below k are known. A rule takes k > 0 and gives the coefficient of the
        result (a list of them if `multiple_results`). None: it follows from `jvp`, the default.
        """
        return self.series_along(xs, ys) if self.locally_linear else None

    def series_along(self, xs: Sequence[Any], ys: Sequence[Any]) -> Callable[[int], Any]:
        """The rule of what is linear in the operands that move: each coefficient by itself is a tangent."""

        def along(k: int) -> Any:
            dxs = [x[k] for x in xs]
            if all([dx is None for dx in dxs]):
                return [None] * len(ys) if self.multiple_results else None
            return self.jvp([x.value for x in xs], dxs)[1]

        return along

    def series_at_once(self, xs: Sequence[list[Any]]) -> list[list[Any]]:
        """All coefficients of each result, the first included, from as many of each operand; if `at_once`."""
        raise RuleError(f"{self.name} has no such rule")

    def squared(self, *xs: Any) -> Any:
        """The square of the result to the last bit, where it has a derivative that the result has not; or None."""
        return None

    def squares(self, *xs: Any) -> Sequence[Any] | None:
        """Terms that add up to the sum of the squared magnitudes of the result's entries, where that takes less than
        the result does: real scalars, and `Through` of operands; or None. Asked if it has one result.
        """
        return None

    def united(self, xs: Sequence[Any], other: Any, ys: Sequence[Any]) -> Any:
        """The sum of the one result for `xs` and that of `other`, a primitive of the same class, for `ys`, where it
        takes no addition; or None."""
        return None

    def factors(self, *xs: Any) -> Any:
        """The one result as a sum of outer products, the `Factors` of `primitives.contraction`, or by `Through`; None
        if it is none."""
        return None

    def support(self, *xs: Any) -> tuple[tuple[int, int], ...] | None:
        """A range for each axis of the one result, beyond which all of it is zero; None where that is not known."""
        return None

    def beside_squares(self) -> tuple[Primitive, tuple[bool, ...]] | None:
        """The same with further results, and to which of its own they belong: the entries of such a one add up to
        the sum of squares of its own. Asked of primitives with multiple results; None for none.
        """
        return None

    def prune(self, needed: tuple[bool, ...]) -> tuple[Primitive, tuple[bool, ...], tuple[bool, ...]] | None:
        """What computes the needed results and as few others as can be: it, which operands it reads, and which
        results it has. None for nothing smaller.

        Asked of primitives with multiple results, of which some are not needed.
        """
        return None

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        """The results, and which of them depend on known operands alone.

        A primitive that holds a Program emits two equations where some do and some do not.
        """
        ys = self(*xs)
        return ys, (False,) * len(ys)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        """Cotangents of the `Undefined` operands, one entry an operand, None elsewhere.

        `ct` is an atom (a list of atoms and None if `multiple_results`).
        """
        raise RuleError(f"{self.name} is not linear in an operand that must be transposed")

    def transpose_masked(self, ct: Any, *xs: Any) -> Any:
        """As `transpose`, where cotangents may be `Masked`, those that are returned too.

        What is masked is zero when `transpose` sees it, and `presence` says what is masked then.
        """
        cts = ct if self.multiple_results else [ct]
        values = [c.clean() if type(c) is Masked else c for c in cts]
        found = self.transpose(values if self.multiple_results else values[0], *xs)
        if not any([type(c) is Masked for c in cts]):
            return found
        return [
            c if c is None or mask is None else Masked(c, mask, self.singular)
            for c, mask in zip(found, self.presence(cts, *xs), strict=True)
        ]

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        """What is there in the cotangent of each operand, given those of the results; None for all of it.

        By default all or nothing: nothing, if nothing is there in those of the results.
        """
        given = [c for c in cts if c is not None]
        masks = [c.there for c in given if type(c) is Masked]
        return [masks[0].whole(*masks[1:]) if len(masks) == len(given) else None] * len(xs)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        """`(ys, ys_batched)` for operands whose batch axis, where they have one, is axis 0.

        Entries are lists if `multiple_results`.
        """
        raise RuleError(f"{self.name} has no batching rule")

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        """As `batch`, for a primitive that `uses_axis(name)`, where the batch axis has that name."""
        return self.batch(size, xs, batched)

    def runs(self) -> tuple[Run, ...]:
        """The Programs that applying it runs; of several to choose from, the one that takes most."""
        return ()

    def applied(self) -> Program | None:
        """The Program whose results are those of the primitive, applied to the same operands; None if there is none."""
        return None

    def work(self, *xs: Aval) -> Work:
        """The operations it takes: those of the Programs it runs, with one turn for a number that is not known;
        without any, `work_each` for each entry of the results."""
        if held := self.runs():
            return sum([p.work * (1 if n is None else n) for p, n in held], Work(0))
        ys = self.shape(*xs)
        return self.work_each * sum(y.size for y in (ys if self.multiple_results else (ys,)))

    def inner(self, *xs: Aval) -> tuple[Program, ...]:
        """The Programs that run when it does, for operands of these types: those that `thread` is about."""
        return ()

    @property
    def turns(self) -> range | None:
        """Of a loop: which inputs of its `inner` Program hold the first outputs that it gave the turn before."""
        return None

    def thread(self, at: Thread, state: Sequence[Atom], xs: Sequence[Atom]) -> tuple[Sequence[Atom], Sequence[Atom]]:
        """The next state, and the results, a state being carried through its `inner` Programs; see rewrites.thread."""
        raise RuleError(f"{self.name} holds no Program to carry a state through")

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        """Which entries of each result depend on which of each operand that moves, for a linear map of those.

        A matrix a result and operand, a row an entry of the result; None for no dependence. Asked of equations between
        tangents: what a function depends on is what its derivative does.
        """
        at.note(self.name, "it may mix all entries of its operands")
        return at.everything()

    def writes(self, *xs: Aval) -> Writes | None:
        """If the result is an operand with some of its entries written over, or added to: what is written where."""
        return None

    def uses_axis(self, name: Any) -> bool:
        """Whether a collective over the mapped axis `name` is in here."""
        return False

    def with_programs(self, change: Callable[[Program], Program]) -> Primitive:
        """The same with `change` made to the Programs that it applies to its operands and differentiates."""
        return self

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        """The results, and the values observed in here, by name. Asked only where there are some."""
        source = ambient().source
        where = f"  ({source}, in {source.function})" if source else ""
        raise RuleError(
            f"{self.name}: values tapped inside one cannot be collected; tap what goes into it or what comes out."
            f"{where}"
        )

    def spelled(self, writer: Python, eqn: Equation) -> None:
        """Write an equation of this primitive as lines of Python."""
        writer.usual(eqn)

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Primitive | None:
        """The primitive that stands for JAX's with these parameters; None keeps it foreign."""
        raise RuleError(f"{cls.__name__} is not imported from jax")


P = TypeVar("P", bound=type)


@dataclass_transform(frozen_default=True)
def primitive(cls: P) -> P:
    """Make a Primitive class with typed fields a frozen, hashable record known by its name."""
    cls = dataclass(frozen=True, repr=False)(cls)
    names = tuple(f.name for f in fields(cls))

    def __hash__(self: Any) -> int:
        try:
            return self._hash
        except AttributeError:
            object.__setattr__(self, "_hash", hash((self.name, *[getattr(self, n) for n in names])))
            return self._hash

    cls.__hash__ = __hash__  # pyright: ignore[reportAttributeAccessIssue]
    cls.params = property(lambda self: {n: getattr(self, n) for n in names})
    Primitive.named[cls.name] = cls  # pyright: ignore[reportAttributeAccessIssue]
    return cls


_BUILDER: ContextVar[Builder | None] = ContextVar("builder", default=None)  # read in half the time of a thread's local
open_builder, write_to = _BUILDER.get, _BUILDER.set  # the Builder that equations are being written to here, or None


class _Ambient(threading.local):
    collects: bool = False  # whether what is tapped in this trace is collected

    def __init__(self) -> None:
        self.session: set[Any] = set()  # what has been traced in the outermost trace, another one for each


AMBIENT = _Ambient()


def ambient() -> Builder:
    """The Builder that equations are being written to."""
    builder = open_builder()
    if builder is None:
        raise RuleError("no Program is being built: primitives are applied inside a trace or a rule")
    return builder
