"""Gradient clipping, right for every finite input, with a stated behaviour on the others.

Norms are computed scaled (norms.py), in float32 at least. What each function does on Inf and NaN is
chosen by `on_nonfinite`:

- `"propagate"`: whatever depends on the norm becomes NaN, so that the failure is loud: all leaves
  for the global norm, the one leaf (or unit, or layer) for the others. `clip_by_value` has no norm:
  it clips Inf, and NaN stays.
- `"skip"`: if any leaf has one, all updates of this step are zero, and `skipped` counts it. Later
  parts of a chain still see those zeros; to hold a whole optimizer still, wrap it in
  `skip_nonfinite`.
- `"zero_leaf"`: a leaf that has one becomes zero, and the others are clipped as if it had been zero
  all along.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax

from functrace import numpy as fnp, tree
from functrace.errors import ArgumentError
from functrace.optim.base import Transformation, real_dtype, transformation
from functrace.optim.checking import check_count, check_structure, failure
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Settings
from functrace.optim.masks import Labels, slash_path, spread
from functrace.optim.norms import Axes, Norm, leaf_norm, shrink, tree_norm

Array = jax.Array
PyTree = Any
OnNonfinite = Literal["propagate", "skip", "zero_leaf"]


class ClipState(NamedTuple):
    """What a clipping function did at the last update, to be read and logged.

    Args:
      step: i32[], updates so far.
      hyperparams: the threshold.
      norm: what was compared with the threshold, before clipping: a scalar for the global norm, a
        scalar a layer for that of layers, else a scalar a leaf.
      clipped: the fraction that was clipped, 0 to 1, of the same structure as `norm`.
      nonfinite: bool[] a leaf: whether the gradient had an Inf or NaN.
      skipped: i32[], updates that `on_nonfinite="skip"` has made zero so far.
    """

    step: Array
    hyperparams: Hyperparams
    norm: PyTree
    clipped: PyTree
    nonfinite: PyTree
    skipped: Array


def clip_by_value(max_delta: Hyperparam, on_nonfinite: OnNonfinite = "propagate") -> Transformation:
    """Every element is brought into `[-max_delta, max_delta]`.

    Args:
      max_delta: the largest magnitude; a number, a scalar array or a schedule.
      on_nonfinite: what to do on Inf and NaN, see the module. To propagate is to clip Inf and to
        keep NaN.
    Returns:
      A transformation with a `ClipState`: `norm` is the largest magnitude of a leaf, `clipped` the
      fraction of its elements.
    Raises:
      ArgumentError: a negative `max_delta`, an unknown `on_nonfinite`.

    >>> clipper = clip_by_value(1.0)
    >>> state = clipper.init({"w": fnp.zeros(2)})
    >>> updates, state = clipper.update({"w": fnp.array([0.5, -3.0])}, state)
    >>> updates["w"].tolist(), float(state.clipped["w"])
    ([0.5, -1.0], 0.5)
    """
    settings = Settings("clip_by_value", {"max_delta": max_delta})

    def clip_leaf(g: Array, hyper: Hyperparams, p: Array | None) -> tuple[Array, Array, Array]:
        magnitude = fnp.abs(g).astype(real_dtype(g))
        bound = hyper.cast("max_delta", magnitude.dtype)
        largest = fnp.max(magnitude, initial=0)
        outside = magnitude > bound
        # Real and imaginary parts keep their ratio; a real number keeps its sign.
        clipped = fnp.where(outside, (fnp.sign(g) * bound).astype(g.dtype), g)
        return clipped, largest, _fraction(outside)

    return _per_leaf(settings, clip_leaf, on_nonfinite)


def clip_by_norm(max_norm: Hyperparam, on_nonfinite: OnNonfinite = "propagate") -> Transformation:
    """Every leaf is scaled down, if need be, to a Euclidean norm of at most `max_norm`.

    Args:
      max_norm: the largest norm of a leaf; a number, a scalar array or a schedule.
      on_nonfinite: what to do on Inf and NaN, see the module.
    Returns:
      A transformation with a `ClipState`: `norm` is the norm of a leaf, `clipped` 1 or 0.
    Raises:
      ArgumentError: a negative `max_norm`, an unknown `on_nonfinite`.
    Source: Pascanu et al., On the difficulty of training recurrent neural networks, ICML (2013).

    >>> clipper = clip_by_norm(1.0)
    >>> state = clipper.init({"w": fnp.zeros(2), "b": 0.0})
    >>> updates, state = clipper.update({"w": fnp.array([3.0, 4.0]), "b": 0.5}, state)
    >>> [round(x, 6) for x in updates["w"].tolist()], float(updates["b"])
    ([0.6, 0.8], 0.5)
    """
    settings = Settings("clip_by_norm", {"max_norm": max_norm})

    def clip_leaf(g: Array, hyper: Hyperparams, p: Array | None) -> tuple[Array, Array, Array]:
        norm = leaf_norm(g)
        update, shrunk = shrink(g, norm, hyper["max_norm"])
        return update, norm.value, _fraction(shrunk)

    return _per_leaf(settings, clip_leaf, on_nonfinite)


def clip_by_block_rms(threshold: Hyperparam, on_nonfinite: OnNonfinite = "propagate") -> Transformation:
    """Every leaf is scaled down, if need be, to a root mean square of at most `threshold`.

    Args:
      threshold: the largest root mean square of a leaf; a number, a scalar array or a schedule.
      on_nonfinite: what to do on Inf and NaN, see the module.
    Returns:
      A transformation with a `ClipState`: `norm` is the root mean square of a leaf, `clipped` 1 or
      0.
    Raises:
      ArgumentError: a negative `threshold`, an unknown `on_nonfinite`.
    Source: update clipping, Shazeer and Stern, Adafactor, ICML (2018).

    >>> clipper = clip_by_block_rms(1.0)
    >>> updates, _ = clipper.update(fnp.array([2.0, -2.0]), clipper.init(fnp.zeros(2)))
    >>> updates.tolist()
    [1.0, -1.0]
    """
    settings = Settings("clip_by_block_rms", {"threshold": threshold})

    def clip_leaf(g: Array, hyper: Hyperparams, p: Array | None) -> tuple[Array, Array, Array]:
        rms = leaf_norm(g, mean=True)
        update, shrunk = shrink(g, rms, hyper["threshold"])
        return update, rms.value, _fraction(shrunk)

    return _per_leaf(settings, clip_leaf, on_nonfinite)


def clip_by_global_norm(max_norm: Hyperparam, on_nonfinite: OnNonfinite = "propagate") -> Transformation:
    """All leaves are scaled down by one factor, if need be, to a global norm of `max_norm`.

    Args:
      max_norm: the largest norm of the whole pytree; a number, a scalar array or a schedule.
      on_nonfinite: what to do on Inf and NaN, see the module.
    Returns:
      A transformation with a `ClipState`: `norm` is the global norm, `clipped` 1 or 0, both
      scalars.
    Raises:
      ArgumentError: a negative `max_norm`, an unknown `on_nonfinite`.
    Source: Pascanu et al., On the difficulty of training recurrent neural networks, ICML (2013).

    >>> clipper = clip_by_global_norm(1.0)
    >>> state = clipper.init({"a": fnp.zeros(2)})
    >>> updates, state = clipper.update({"a": fnp.array([1e25, 1.0])}, state)
    >>> updates["a"].tolist() == fnp.array([1.0, 1e-25]).tolist(), float(state.clipped)
    (True, 1.0)
    """
    settings = Settings("clip_by_global_norm", {"max_norm": max_norm})

    def clip(grads: PyTree, hyper: Hyperparams, params: PyTree) -> tuple[PyTree, Array, Array]:
        norm = tree_norm(grads)
        shrunk = ~(norm.value <= hyper.cast("max_norm", norm.root.dtype))
        updates = tree.map(lambda g: shrink(g, norm, hyper["max_norm"])[0], grads)
        return updates, norm.value, _fraction(shrunk)

    return _clipping(settings, clip, lambda params: tree_norm(params).value, on_nonfinite)


def clip_by_layer_norm(
    max_norm: Hyperparam, layers: int | Labels | None = None, on_nonfinite: OnNonfinite = "propagate"
) -> Transformation:
    """The leaves of a layer are scaled down by one factor, if need be, to a norm of `max_norm` together.

    Args:
      max_norm: the largest norm of a layer; a number, a scalar array or a schedule.
      layers: which leaves are a layer. None: those with one parent, as `w` and `b` of `layers/0`. An
        integer: those whose paths start with the same keys, so many. Else the layer of every leaf, as
        labels are given to `partition`.
      on_nonfinite: what to do on Inf and NaN, see the module. To propagate is to make the layer NaN.
    Returns:
      A transformation with a `ClipState`: `norm` is a dict from each layer to its norm, `clipped` to 1
      or 0.
    Raises:
      ArgumentError: a negative `max_norm`, `layers` below 1, labels of another structure, an unknown
        `on_nonfinite`.

    >>> clipper = clip_by_layer_norm(1.0)
    >>> grads = {"body": {"w": 3.0, "b": 4.0}, "head": {"w": 0.5}}
    >>> updates, state = clipper.update(grads, clipper.init(grads))
    >>> {name: float(norm) for name, norm in state.norm.items()}, round(float(updates["body"]["w"]), 6)
    ({'body': 5.0, 'head': 0.5}, 0.6)
    """
    settings = Settings("clip_by_layer_norm", {"max_norm": max_norm})
    if isinstance(layers, int):
        check_count(settings.owner, "layers", layers)

    def by_layer(pytree: PyTree) -> dict[Any, list[int]]:
        """The places of each layer's leaves."""
        if layers is None or isinstance(layers, int):
            end = -1 if layers is None else layers
            paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(pytree)[0]]
            names = [slash_path(path[:end]) or "(the root)" for path in paths]
        else:
            labels = layers(pytree) if callable(layers) else layers
            names = tree.leaves(spread(settings.owner, "layers", labels, pytree))
        places: dict[Any, list[int]] = {}
        for i, name in enumerate(names):
            places.setdefault(name, []).append(i)
        return places

    def clip(grads: PyTree, hyper: Hyperparams, params: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        leaves, structure = tree.flatten(grads)
        norms, clipped = {}, {}
        for name, places in by_layer(grads).items():
            norm = tree_norm([leaves[i] for i in places])
            norms[name] = norm.value
            clipped[name] = _fraction(~(norm.value <= hyper.cast("max_norm", norm.root.dtype)))
            for i in places:
                leaves[i] = shrink(leaves[i], norm, hyper["max_norm"])[0]
        return tree.unflatten(structure, leaves), norms, clipped

    def norm_like(params: PyTree) -> PyTree:
        leaves = tree.leaves(params)
        return {name: tree_norm([leaves[i] for i in places]).value for name, places in by_layer(params).items()}

    return _clipping(settings, clip, norm_like, on_nonfinite)


def adaptive_clip(
    clipping: Hyperparam,
    eps: Hyperparam = 1e-3,
    axis: Axes = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> Transformation:
    """Every unit is scaled down, if need be, to `clipping` times the norm of its parameters (AGC).

    A unit is what one output depends on: a whole leaf of up to one axis longer than 1; a column of
      a matrix (axis 0 is summed
    over); of a kernel of 4 or 5 axes, all but the last are summed over, and of 3 axes the first.

    Args:
      clipping: the largest ratio of the norms; a number, a scalar array or a schedule.
      eps: parameter norms below it count as it, so that zero parameters can move.
      axis: the axes to sum over, for layouts other than the above.
      on_nonfinite: what to do on Inf and NaN, see the module. To propagate is to make the unit NaN.
    Returns:
      A transformation with a `ClipState`: `norm` is the largest norm of a leaf's units, `clipped`
      the fraction of its units. Its update needs the parameters.
    Raises:
      ArgumentError: a negative `clipping` or `eps`, an unknown `on_nonfinite`, no parameters given
        to `update`, a leaf of more than 5 axes when `axis` is None.
    Source: Brock et al., High-performance large-scale image recognition without normalization, ICML
      (2021).

    >>> clipper = adaptive_clip(0.5)
    >>> params = {"w": fnp.array([[1.0, 1.0], [0.0, 0.0]])}
    >>> grads = {"w": fnp.array([[4.0, 0.25], [0.0, 0.0]])}
    >>> updates, state = clipper.update(grads, clipper.init(params), params)
    >>> updates["w"].tolist(), float(state.clipped["w"])
    ([[0.5, 0.25], [0.0, 0.0]], 0.5)
    """
    settings = Settings("adaptive_clip", {"clipping": clipping, "eps": eps})

    def clip_leaf(g: Array, hyper: Hyperparams, p: Array) -> tuple[Array, Array, Array]:
        axes = _unit_axes(p.shape) if axis is None else axis
        norm, weight = leaf_norm(g, axes), leaf_norm(p, axes)
        dtype = norm.root.dtype
        ratio, floor = hyper.cast("clipping", dtype), hyper.cast("eps", dtype)
        root, peak = weight.root.astype(dtype), weight.peak.astype(dtype)

        def limit(unit: Any) -> Array:
            return fnp.maximum(ratio * root * (peak * unit), ratio * floor * unit)

        # Both sides in smaller units where the limit could overflow.
        unit = fnp.where(limit(2.0**-16) > 1e25, 2.0**-16, 1).astype(dtype)
        threshold = limit(unit)
        update, shrunk = shrink(g, Norm(norm.peak * unit, norm.root), threshold)
        return update, fnp.max(norm.value, initial=0), _fraction(shrunk)

    return _per_leaf(settings, clip_leaf, on_nonfinite, needs_params=True)


def _unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) > 5:
        raise failure(
            ArgumentError,
            f"adaptive_clip: a parameter has shape {shape}; up to 5 axes have a known unit. "
            "Give `axis`, the axes to sum over.",
        )
    if sum(size != 1 for size in shape) <= 1:
        return tuple(range(len(shape)))
    return (0,) if len(shape) <= 3 else tuple(range(len(shape) - 1))


def _fraction(flags: Array) -> Array:
    """How much of a boolean array is true; 0 of an empty one."""
    return fnp.sum(flags, dtype=fnp.float32) / max(flags.size, 1)


def _per_leaf(
    settings: Settings,
    clip_leaf: Callable[..., tuple[Array, Array, Array]],
    on_nonfinite: str,
    needs_params: bool = False,
) -> Transformation:
    """The clipping function that treats each leaf by itself."""

    def clip(grads: PyTree, hyper: Hyperparams, params: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        leaves, structure = tree.flatten(grads)
        others = tree.leaves(params) if needs_params else [None] * len(leaves)
        results = [clip_leaf(g, hyper, p) for g, p in zip(leaves, others, strict=True)]
        updates, norms, clipped = zip(*results, strict=True) if results else ((), (), ())
        return (
            tree.unflatten(structure, updates),
            tree.unflatten(structure, norms),
            tree.unflatten(structure, clipped),
        )

    def norm_like(params: PyTree) -> PyTree:
        return tree.map(lambda p: fnp.zeros((), real_dtype(p)), params)

    return _clipping(settings, clip, norm_like, on_nonfinite, needs_params)


def _clipping(
    settings: Settings,
    clip: Callable[..., tuple[PyTree, PyTree, PyTree]],
    norm_like: Callable[[PyTree], PyTree],
    on_nonfinite: str,
    needs_params: bool = False,
) -> Transformation:
    """A transformation with a ClipState, from `clip(grads, hyper, params)`.

    It returns `(updates, norm, clipped)`.
    """
    if on_nonfinite not in get_args(OnNonfinite):
        choices = ", ".join(map(repr, get_args(OnNonfinite)))
        raise failure(
            ArgumentError, f"{settings.owner}: on_nonfinite is {on_nonfinite!r}; one of {choices} was expected."
        )

    def memory(params: PyTree) -> dict[str, PyTree]:
        norm = tree.map(fnp.zeros_like, norm_like(params))
        return {
            "norm": norm,
            "clipped": tree.map(lambda _: fnp.zeros((), fnp.float32), norm),
            "nonfinite": tree.map(lambda _: fnp.zeros((), bool), params),
            "skipped": fnp.zeros((), fnp.int32),
        }

    def step(grads: PyTree, state: ClipState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        names = "gradients", "parameters given to init"
        check_structure(settings.owner, names[0], grads, names[1], state.nonfinite)
        nonfinite = tree.map(lambda g: ~fnp.all(fnp.isfinite(g)), grads)
        if on_nonfinite == "zero_leaf":
            grads = tree.map(lambda g, bad: fnp.where(bad, 0, g), grads, nonfinite)
        updates, norm, clipped = clip(grads, state.hyperparams, params)
        skipped = state.skipped
        if on_nonfinite == "skip":
            skip = any_of(nonfinite)
            updates, clipped = tree.map(lambda x: fnp.where(skip, 0, x), (updates, clipped))
            skipped = skipped + skip
        return updates, {
            "norm": norm,
            "clipped": clipped,
            "nonfinite": nonfinite,
            "skipped": skipped,
        }

    return transformation(settings, ClipState, step, memory, needs_params=needs_params)


def any_of(flags: PyTree) -> Array:
    """Whether any of the boolean scalars of a pytree is true."""
    return tree.reduce(fnp.logical_or, flags, fnp.zeros((), bool))
