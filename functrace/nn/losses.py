"""Losses: one value an example; reduce them with `.mean()`."""

from __future__ import annotations

from typing import Any

from functrace import numpy as fnp
from functrace.errors import DtypeError, ShapeError
from functrace.nn.activations import log_softmax, logsumexp


def softmax_cross_entropy_with_integer_labels(logits: Any, labels: Any) -> Any:
    """Minus the log-probability of the labelled class.

    Args:
      logits: floating, of shape `[..., classes]`.
      labels: integer, of shape `[...]`, in `[0, classes)`.
    Returns:
      An array of shape `[...]` and the dtype of `logits`.
    Raises:
      DtypeError: `labels` are not integers.
      ShapeError: shapes do not fit.

    >>> import numpy as np
    >>> loss = softmax_cross_entropy_with_integer_labels(np.zeros((1, 2), np.float32), np.array([1]))
    >>> round(float(loss[0]), 4)
    0.6931
    """
    shape, label_shape = fnp.shape(logits), fnp.shape(labels)
    if shape[:-1] != label_shape:
        raise ShapeError(
            f"softmax_cross_entropy_with_integer_labels: logits of shape {shape} need labels of shape {shape[:-1]}, "
            f"got {label_shape}"
        )
    if not fnp.issubdtype(labels.dtype, fnp.integer):
        raise DtypeError(
            f"softmax_cross_entropy_with_integer_labels: labels have dtype {labels.dtype} and must be integers; for "
            "probabilities use softmax_cross_entropy"
        )
    chosen = fnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return logsumexp(logits, axis=-1) - chosen


def softmax_cross_entropy(logits: Any, labels: Any) -> Any:
    """Cross entropy of `labels`, a distribution over the last axis, and the softmax of `logits`.

    Args:
      logits: floating, of shape `[..., classes]`.
      labels: of the same shape; each row sums to 1.
    Returns:
      An array of shape `[...]`.
    Raises:
      ShapeError: shapes differ.
    """
    same_shape("softmax_cross_entropy", logits, labels)
    return -fnp.sum(labels * log_softmax(logits), axis=-1)


def mse(predictions: Any, targets: Any) -> Any:
    """Squared error, element by element.

    Raises:
      ShapeError: shapes differ.
    """
    same_shape("mse", predictions, targets)
    return (predictions - targets) ** 2


def huber(predictions: Any, targets: Any, delta: float = 1.0) -> Any:
    """Half the squared error where it is below `delta` in size, linear beyond (Huber 1964).

    Raises:
      ShapeError: shapes differ.
    """
    same_shape("huber", predictions, targets)
    error = fnp.abs(predictions - targets)
    quadratic = fnp.minimum(error, delta)
    return 0.5 * quadratic**2 + delta * (error - quadratic)


def same_shape(loss: str, predictions: Any, targets: Any) -> None:
    """Refuse to broadcast: a silent outer difference is a common mistake."""
    if fnp.shape(predictions) != fnp.shape(targets):
        raise ShapeError(
            f"{loss}: predictions of shape {fnp.shape(predictions)} and targets of shape {fnp.shape(targets)} must "
            "have the same shape; reshape one of them"
        )
