"""The safetensors format, read and written: named arrays and text in one file, and no code.

A file is the length of its header (8 bytes, little-endian), the header (JSON: for each array its dtype, shape and
place in the data; under `__metadata__` texts), then the data. Here the metadata has a checksum besides: `sha256`, of
all that follows the length, the checksum itself taken as zeros.

The format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from functrace.errors import FileError
from functrace.ir.files import content, described, replacing

DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
NO_SUM = "0" * 64


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all.

    Args:
      path: where; what was there before is replaced at once, when the new file is complete.
      arrays: of the dtypes in `DTYPES`, by name.
      metadata: texts by name; `sha256` is added.
    """
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # so that each begins at a multiple of its size
    buffers = [bytes_of(arrays[name]) for name in order]
    header: dict[str, Any] = {"__metadata__": {"sha256": NO_SUM, **metadata}}  # the sum stands first
    end = 0
    for name, buffer in zip(order, buffers, strict=True):
        array = arrays[name]
        start, end = end, end + buffer.nbytes
        header[name] = {"dtype": NAMES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    text = text.replace(NO_SUM.encode(), checksum([text, *buffers]).encode(), 1)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for buffer in buffers:
            file.write(buffer.data)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file; where there is a checksum, it has been verified.

    Raises:
      MissingFileError: there is no such file.
      FileError: the file is damaged, cut short, or of another format.
    """
    data = content(path)
    header = header_of(path, data)
    begin = 8 + int.from_bytes(data[:8], "little")
    metadata = header.pop("__metadata__", {})
    entries, end = [], 0
    try:
        for name, tensor in header.items():
            start, stop = map(int, tensor["data_offsets"])
            entries.append(Entry(start, stop, name, str(tensor["dtype"]), tuple(map(int, tensor["shape"]))))
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path}: its header is not one of safetensors ({error!r}).") from error
    for entry in sorted(entries):
        start, stop, name, dtype, shape = entry
        if dtype not in DTYPES:
            raise FileError(f"{path}: {name} has dtype {dtype}, which NumPy has no type for.")
        size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if start != end or stop - start != size or min(shape, default=0) < 0:
            raise FileError(
                f"{path}: {name}, {dtype} of shape {shape}, cannot have the bytes {start} to {stop} of the data. The "
                "header is damaged: get the file again."
            )
        end = stop
    if len(data) - begin != end:
        what = "cut short" if len(data) - begin < end else "followed by something else"
        raise FileError(
            f"{path}: {len(data)} bytes; its header says {begin + end}. The file is {what}: get it again, or go back "
            "to an older one."
        )
    if "sha256" in metadata:
        text = data[8:begin].replace(str(metadata["sha256"]).encode(), NO_SUM.encode(), 1)
        found = checksum([text, memoryview(data)[begin:]])
        if found != metadata["sha256"]:
            raise FileError(
                f"{path}: the file is damaged: its checksum is {found[:12]}..., and it was written with "
                f"{str(metadata['sha256'])[:12]}... . Get it again, or go back to an older one."
            )
    return {entry.name: array_of(data, begin, entry) for entry in entries}, metadata


class Entry(NamedTuple):
    """What a header says of an array: where its bytes begin and end, and what they are."""

    start: int
    stop: int
    name: str
    dtype: str
    shape: tuple[int, ...]


def array_of(data: bytes, begin: int, entry: Entry) -> np.ndarray:
    """A copy of an array of the data, which begins at byte `begin`."""
    dtype = np.dtype(DTYPES[entry.dtype])
    return np.frombuffer(data, dtype, math.prod(entry.shape), begin + entry.start).reshape(entry.shape).copy()


def header_of(path: Path, data: bytes) -> dict[str, Any]:
    """The header as JSON says it."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] not in (b"{", b""):
        raise FileError(f"{path}: not a safetensors file, as `functrace.io.save` writes it: {described(data)}.")
    if len(data) < 8 + max(length, 2):
        raise FileError(
            f"{path}: {len(data)} bytes; the header of a safetensors file alone would end at byte "
            f"{8 + max(length, 2)}. The file is cut short, or of another format."
        )
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError as error:
        raise FileError(f"{path}: its header is damaged, or of another format: {error}.") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise FileError(f"{path}: its header is not one of safetensors: no JSON object.")
    return header


def bytes_of(array: np.ndarray) -> np.ndarray:
    """The bytes of an array in order, little-endian: u8[n], a view where it can be one."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8)


def checksum(parts: Iterable[Any]) -> str:
    """SHA-256 of buffers, one after the other, in hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()
