"""jax.scipy.spatial.transform, lifted: its classes, whose arrays may be tracers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from jax.scipy.spatial import transform

from functrace.tracing import lift


def lifted(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` lifted; a rotation that it gives has lifted methods again."""
    recorded = lift(fun)

    @wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        y = recorded(*args, **kwargs)
        if isinstance(y, transform.Rotation):
            return Rotation(*y)
        return Slerp(*y)._replace(rotations=Rotation(*y.rotations)) if isinstance(y, transform.Slerp) else y

    return call


class Rotation(transform.Rotation):
    """Rotations in three dimensions, as unit quaternions."""

    concatenate = staticmethod(lifted(transform.Rotation.concatenate))
    from_euler = staticmethod(lifted(transform.Rotation.from_euler))
    from_matrix = staticmethod(lifted(transform.Rotation.from_matrix))
    from_mrp = staticmethod(lifted(transform.Rotation.from_mrp))
    from_quat = staticmethod(lifted(transform.Rotation.from_quat))
    from_rotvec = staticmethod(lifted(transform.Rotation.from_rotvec))
    identity = staticmethod(lifted(transform.Rotation.identity))
    random = staticmethod(lifted(transform.Rotation.random))

    __getitem__ = lifted(transform.Rotation.__getitem__)
    __mul__ = lifted(transform.Rotation.__mul__)
    apply = lifted(transform.Rotation.apply)
    as_euler = lifted(transform.Rotation.as_euler)
    as_matrix = lifted(transform.Rotation.as_matrix)
    as_mrp = lifted(transform.Rotation.as_mrp)
    as_quat = lifted(transform.Rotation.as_quat)
    as_rotvec = lifted(transform.Rotation.as_rotvec)
    inv = lifted(transform.Rotation.inv)
    magnitude = lifted(transform.Rotation.magnitude)
    mean = lifted(transform.Rotation.mean)


class Slerp(transform.Slerp):
    """Spherical interpolation between rotations at given times."""

    init = staticmethod(lifted(transform.Slerp.init))

    __call__ = lifted(transform.Slerp.__call__)
