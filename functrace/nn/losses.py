"""Losses: one value for each example or element, to be reduced as you like; `mse` takes the mean.

None broadcasts: predictions `[n, 1]` against targets `[n]` are a mistake, not an `[n, n]` table.
"""

from __future__ import annotations

import math
from typing import Any

from jax import Array

from functrace import numpy as fnp
from functrace.errors import ArgumentError, DtypeError, ShapeError
from functrace.nn.activations import ArrayLike, log_sigmoid, log_softmax
from functrace.nn.checking import failure, known_integers


def softmax_cross_entropy_with_integer_labels(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Minus the log-probability, under the softmax of the logits, of the labelled class.

    Args:
      logits: floating, of shape `[..., classes]`.
      labels: integers of shape `[...]`, in `[0, classes)`. Where labels are known only when the
        program runs, inside of jit and vmap, one outside of it makes its loss NaN, and the gradient in its row.
    Returns:
      An array of shape `[...]` and the dtype of `logits`.
    Raises:
      DtypeError: `logits` are not floating, or `labels` not integers.
      ShapeError: the shape of `labels` is not that of `logits` without its last axis.
      ArgumentError: a label that is known is outside of `[0, classes)`.

    >>> logits = fnp.array([[0.0, 0.0], [1e4, 0.0]])
    >>> [round(x, 4) for x in softmax_cross_entropy_with_integer_labels(logits, [1, 0]).tolist()]
    [0.6931, 0.0]
    """
    name = "softmax_cross_entropy_with_integer_labels"
    logits = _floating(name, "logits", logits)
    known = known_integers(labels)
    labels = fnp.asarray(labels)
    if not fnp.issubdtype(labels.dtype, fnp.integer):
        raise failure(
            DtypeError,
            name,
            f"labels have dtype {labels.dtype}; integers were expected. For probabilities use softmax_cross_entropy.",
        )
    if not logits.ndim or logits.shape[:-1] != labels.shape:
        remedy = ""
        if labels.shape == logits.shape:
            remedy = " For one-hot labels or probabilities use softmax_cross_entropy."
        elif labels.shape == (*logits.shape[:-1], 1):
            remedy = " Squeeze the labels' last axis."
        raise failure(
            ShapeError,
            name,
            f"logits have shape {logits.shape} and labels {labels.shape}; labels of shape "
            f"{logits.shape[:-1]}, one for each row of logits, were expected.{remedy}",
        )
    classes = logits.shape[-1]
    if known is not None and known.size:
        lowest, highest = known.min(), known.max()
        if lowest < 0 or highest >= classes:
            raise failure(
                ArgumentError,
                name,
                f"labels go from {lowest} to {highest}; 0 to {classes - 1} was expected, "
                f"as logits have {classes} classes. For a row without a label give 0, and leave its loss out: "
                "`where(has_label, loss, 0.0)`.",
            )
    valid = (labels >= 0) & (labels < classes)
    place = fnp.where(valid, labels, 0)[..., None]
    chosen = fnp.take_along_axis(log_softmax(logits), place, axis=-1)[..., 0]
    return fnp.where(valid, -1.0, math.nan) * chosen  # a product, so that the gradient is NaN as well


def softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Cross entropy of `labels`, a distribution over the last axis, and the softmax of `logits`.

    Args:
      logits: floating, of shape `[..., classes]`; -inf is a class that cannot be, which costs
        nothing where its label is 0.
      labels: of the shape of `logits`; each row sums to 1.
    Returns:
      An array of shape `[...]`.
    Raises:
      DtypeError: `logits` are not floating.
      ShapeError: the shapes differ, or are those of scalars.

    >>> softmax_cross_entropy(fnp.array([0.0, -fnp.inf]), fnp.array([1.0, 0.0])).tolist()
    0.0
    """
    name = "softmax_cross_entropy"
    logits = _floating(name, "logits", logits)
    labels = fnp.asarray(labels)
    _same_shape(name, "logits", logits, "labels", labels)
    if not logits.ndim:
        raise failure(ShapeError, name, "logits are a scalar; their last axis is the classes.")
    log_probabilities = log_softmax(logits)
    impossible = (log_probabilities == -math.inf) & (labels == 0)
    return -fnp.sum(labels * fnp.where(impossible, 0, log_probabilities), axis=-1)


def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Cross entropy of `labels`, each a probability, and the sigmoid of `logits`, by element.

    Args:
      logits: floating, of any shape.
      labels: 0, 1 or a probability between, of the shape of `logits`.
    Returns:
      An array of that shape.
    Raises:
      DtypeError: `logits` are not floating.
      ShapeError: the shapes differ.

    >>> sigmoid_binary_cross_entropy(fnp.array([1e4, -1e4]), fnp.array([1.0, 1.0])).tolist()
    [0.0, 10000.0]
    """
    name = "sigmoid_binary_cross_entropy"
    logits = _floating(name, "logits", logits)
    labels = fnp.asarray(labels).astype(logits.dtype)
    _same_shape(name, "logits", logits, "labels", labels)
    return -labels * log_sigmoid(logits) - (1 - labels) * log_sigmoid(-logits)


def squared_error(predictions: ArrayLike, targets: ArrayLike) -> Array:
    """The square of the difference, by element.

    Args:
      predictions: floating, of any shape.
      targets: of the shape of `predictions`.
    Returns:
      An array of that shape.
    Raises:
      DtypeError: `predictions` are not floating.
      ShapeError: the shapes differ.

    >>> squared_error(fnp.array([1.0, 5.0]), fnp.array([3.0, 5.0])).tolist()
    [4.0, 0.0]
    """
    error = _difference("squared_error", predictions, targets)
    return error * error


def mse(predictions: ArrayLike, targets: ArrayLike) -> Array:
    """The mean squared error: the mean over all elements of the squared difference.

    Args:
      predictions: floating, of any shape.
      targets: of the shape of `predictions`.
    Returns:
      A scalar.
    Raises:
      DtypeError: `predictions` are not floating.
      ShapeError: the shapes differ.

    >>> float(mse(fnp.array([1.0, 5.0]), fnp.array([3.0, 5.0])))
    2.0
    """
    error = _difference("mse", predictions, targets)
    return fnp.mean(error * error)


def huber(predictions: ArrayLike, targets: ArrayLike, delta: ArrayLike = 1.0) -> Array:
    """Half the squared error where the error is up to `delta`, and linear beyond, by element.

    Args:
      predictions: floating, of any shape.
      targets: of the shape of `predictions`.
      delta: where the parabola becomes a line; positive.
    Returns:
      An array of that shape.
    Raises:
      DtypeError: `predictions` are not floating.
      ShapeError: the shapes differ.
    Source: Huber, Robust estimation of a location parameter, Ann. Math. Statist. 35 (1964).

    >>> huber(fnp.array([0.5, 3.0]), fnp.array([0.0, 0.0])).tolist()
    [0.125, 2.5]
    """
    error = _difference("huber", predictions, targets)
    small = fnp.abs(error) <= delta
    near = fnp.where(small, error, 0)
    return fnp.where(small, 0.5 * near * near, delta * (fnp.abs(error) - 0.5 * delta))


def _difference(loss: str, predictions: Any, targets: Any) -> Any:
    """`predictions - targets`, once both are seen to fit."""
    predictions, targets = _floating(loss, "predictions", predictions), fnp.asarray(targets)
    _same_shape(loss, "predictions", predictions, "targets", targets)
    return predictions - targets


def _floating(loss: str, name: str, x: Any) -> Any:
    """`x` as an array of floating dtype."""
    x = fnp.asarray(x)
    if not fnp.issubdtype(x.dtype, fnp.floating):
        raise failure(DtypeError, loss, f"{name} have dtype {x.dtype}; a floating one was expected.")
    return x


def _same_shape(loss: str, name: str, x: Any, other_name: str, other: Any) -> None:
    """Refuse to broadcast."""
    if x.shape != other.shape:
        raise failure(
            ShapeError,
            loss,
            f"{name} have shape {x.shape} and {other_name} {other.shape}; they must be the "
            "same. Reshape one of them: losses do not broadcast.",
        )
