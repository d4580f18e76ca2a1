"""Weight decay: one formula, two places for it in a chain."""

from typing import Any

from functrace import tree
from functrace.optim.base import Transformation, real_dtype, transformation
from functrace.optim.hyperparameters import Hyperparam, Settings
from functrace.optim.masks import Mask, chosen_leaves
from functrace.optim.stepping import StepState

PyTree = Any


def add_decayed_weights(weight_decay: Hyperparam = 0.0, mask: Mask = None) -> Transformation:
    """Decoupled weight decay: `updates + weight_decay * params`, after a chain's scaling.

    Args:
      weight_decay: a number, a scalar array or a schedule; hyper-parameter `weight_decay`.
      mask: which leaves decay: a pytree of Python booleans of the parameters' structure, or with a
        flag in the place of a whole subtree, or a function from the parameters to one, such as
        `lambda params: ft.tree.map(lambda p: p.ndim > 1, params)`. None: all.
    Returns:
      A transformation with a `StepState`. Its update needs the parameters.
    Raises:
      ArgumentError: a negative `weight_decay`, no parameters given to `update`, a mask of another
        structure.
      DtypeError: a leaf of the mask is not a Python boolean.
    Source: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR (2019).

    >>> part = add_decayed_weights(0.5, mask={"w": True, "b": False})
    >>> params = {"w": 4.0, "b": 4.0}
    >>> updates, _ = part.update({"w": 1.0, "b": 1.0}, part.init(params), params)
    >>> float(updates["w"]), float(updates["b"])
    (3.0, 1.0)
    """
    return _decay(Settings("add_decayed_weights", {"weight_decay": weight_decay}), "weight_decay", mask)


def l2_regularization(l2: Hyperparam = 0.0, mask: Mask = None) -> Transformation:
    """L2 regularization: `grads + l2 * params`, the gradient of `l2 / 2 * |params|^2`.

    Placed first in a chain, it is coupled: what comes after it (momentum, Adam's scaling) treats it
      as part of the gradient.

    Args:
      l2: a number, a scalar array or a schedule; hyper-parameter `l2`.
      mask: which leaves, as in `add_decayed_weights`.
    Returns:
      A transformation with a `StepState`. Its update needs the parameters.
    Raises:
      ArgumentError: a negative `l2`, no parameters given to `update`, a mask of another structure.
      DtypeError: a leaf of the mask is not a Python boolean.

    >>> import functrace.optim as optim
    >>> optimizer = optim.chain(l2_regularization(0.5), optim.sgd(1.0))
    >>> float(optimizer.update(1.0, optimizer.init(4.0), 4.0)[0])
    -3.0
    """
    return _decay(Settings("l2_regularization", {"l2": l2}), "l2", mask)


def _decay(settings: Settings, name: str, mask: Mask) -> Transformation:
    def step(grads: PyTree, state: StepState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        chosen = chosen_leaves(settings.owner, mask, params)

        def decayed(g: Any, p: Any, is_chosen: bool) -> Any:
            return g + state.hyperparams.cast(name, real_dtype(g)) * p if is_chosen else g

        return tree.map(decayed, grads, params, chosen), {}

    return transformation(settings, StepState, step, needs_params=True)
