"""Pytrees saved and loaded: one file in the safetensors format, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from functrace.errors import ArgumentError, DtypeError, FileError, MissingFileError
from functrace.io import safetensors
from functrace.io.structure import describe, differences, rebuilt, rebuilt_like, restored, stored
from functrace.ir.source import caller_source
from functrace.tracing.tracer import at

PyTree = Any
FORMAT = 1
MOST_DIFFERENCES = 10


def save(path: str | os.PathLike[str], pytree: PyTree) -> None:
    """Write a pytree to a file: parameters, an optimizer's state, keys, counts.

    The file is complete or is not there: it is written beside `path` and takes its place at once, so that a crash
    leaves the older file. A process that is killed while it saves leaves its unfinished file `.name.*.tmp` beside it,
    which the next save to `path` removes: a file that is being written is locked, and one that no process holds is
    stale. Where files have no locks, as on Windows, it stays. The format is safetensors, with the structure and a
    SHA-256 checksum in the metadata; any program that reads safetensors reads the arrays, by names such as
    `layers.0.W`.

    Args:
      path: where; the folder must exist.
      pytree: of arrays of JAX's or NumPy's and of any dtype from int4 to complex128, keys of `random.key`, Python's
        bool, int, float, complex and str, and None; in dicts (with keys that are texts or integers), lists, tuples,
        named tuples, and other classes registered as pytrees.
    Raises:
      DtypeError: a leaf is something else, or a value of a function that is being traced.
      MissingFileError: there is no such folder.
      ArgumentError: an array is spread over machines, and this one does not have all of it.

    >>> import tempfile
    >>> from functrace import numpy as fnp, random
    >>> path = Path(tempfile.mkdtemp()) / "run.safetensors"
    >>> save(path, {"W": fnp.ones((2, 3), fnp.bfloat16), "key": random.key(0), "step": 7})
    >>> load(path)["step"], load(path)["W"].dtype.name
    (7, 'bfloat16')
    """
    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, x: Any) -> str:
        if not getattr(x, "is_fully_addressable", True):
            raise ArgumentError(
                f"save: {name} is spread over machines, and this one has a part of it; gather it first."
                f"{at(caller_source())}"
            )
        if isinstance(x, jax.ShapeDtypeStruct):
            raise DtypeError(f"save: {name} is a ShapeDtypeStruct, which has no data.{at(caller_source())}")
        name = name or "value"
        while name in arrays or name == "__metadata__":  # {"a.b": x} beside {"a": {"b": x}}
            name += "'"
        arrays[name] = stored(x)
        return name

    spec = describe("save", pytree, keep)
    path = Path(path)
    if not path.parent.is_dir():
        raise MissingFileError(f"save: {path.parent}: no such folder. Make it first.{at(caller_source())}")
    safetensors.write(path, arrays, {"functrace": json.dumps({"format": FORMAT, "tree": spec})})


def load(path: str | os.PathLike[str], like: PyTree = None, *, foreign: bool = False) -> PyTree:
    """The pytree in a file that `save` wrote, once its checksum is verified. No code in the file is run.

    Args:
      path: the file.
      like: a pytree of the structure that is expected, such as `init(key)` or `eval_shape(init, key)`: the file must
        have the same paths, shapes and dtypes. Arrays come back as those of `like` are, of JAX's or NumPy's, and
        on their devices if they are committed to some.
      foreign: whether a safetensors file of another program is read too, into a dict from names to NumPy's arrays.
    Returns:
      The pytree, arrays being of the library they were of. Without `like`, named tuples and other classes become
      dicts from their fields to values.
    Raises:
      MissingFileError: there is no such file.
      FileError: the file is damaged, cut short, of another format, or written by another program.
      ArgumentError: the structure is not that of `like`; the message names the paths that differ.
      DtypeError: an array of JAX's has 64 bits, and they are off.

    >>> import tempfile
    >>> from functrace import numpy as fnp
    >>> path = Path(tempfile.mkdtemp()) / "params.safetensors"
    >>> save(path, {"W": fnp.ones((2, 3)), "b": fnp.zeros(3)})
    >>> load(path, like={"W": fnp.ones((2, 4)), "b": fnp.zeros(3)})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    functrace.errors.ArgumentError: load: ... ['W'] is float32[2,3] in the file and float32[2,4] in `like`...
    """
    path = Path(path)
    arrays, metadata = safetensors.read(path)
    if "functrace" not in metadata:
        if foreign and like is None:
            return arrays
        raise FileError(
            f"{path}: a safetensors file of another program, which has neither structure nor checksum. "
            "Read its arrays with `load(path, foreign=True)`, without `like`."
        )
    if "sha256" not in metadata:
        raise FileError(f"{path}: the file is damaged: its checksum is not there.")
    content = json.loads(metadata["functrace"])
    if content["format"] != FORMAT:
        raise FileError(
            f"{path}: written in format {content['format']} by a newer functrace; this one reads format {FORMAT}."
        )
    spec = content["tree"]
    if like is None:
        return rebuilt(spec, lambda leaf: checked(path, leaf, restored(arrays[leaf["array"]], leaf)))
    found = list(differences(spec, describe("load", like, lambda name, _: name)))
    if found:
        more = len(found) - MOST_DIFFERENCES
        listed = "; ".join(found[:MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise ArgumentError(f"load: {path} does not have the structure of `like`: {listed}.{at(caller_source())}")
    return rebuilt_like(spec, like, lambda leaf, x: checked(path, leaf, placed(arrays[leaf["array"]], leaf, x)))


def placed(data: np.ndarray, spec: Any, like: Any) -> Any:
    """The array of a file, in the library and on the devices that the one of `like` is on."""
    kind = {np.ndarray: "numpy"}.get(type(like), "scalar" if isinstance(like, np.generic) else "jax")
    x = restored(data, spec if spec["kind"] == "key" else {**spec, "kind": kind})
    sharding = getattr(like, "sharding", None) if getattr(like, "committed", True) else None
    return x if sharding is None else jax.device_put(x, sharding)


def checked(path: Path, spec: Any, x: Any) -> Any:
    """An array of the dtype that was saved."""
    if isinstance(x, Array) and spec["kind"] != "key" and x.dtype.name != spec["dtype"]:
        raise DtypeError(
            f"load: {path} has {spec['array']} of dtype {spec['dtype']}, and JAX's 64-bit types are off; switch them "
            f"on with jax.config.update('jax_enable_x64', True).{at(caller_source())}"
        )
    return x
