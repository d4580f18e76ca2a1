"""IDX files, the format of MNIST: a magic number, the length of each axis, then the elements.

The magic number's last two bytes are the type of the elements and the number of axes; all numbers are
big-endian. Files may be gzipped.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from functrace.errors import FileError, MissingFileError

TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
KINDS = {0x0801: "labels", 0x0803: "images"}  # of MNIST, by magic number
PARTS = ("train", "t10k")
CLASSES = 10


def read_idx(path: str | os.PathLike[str], magic: int | None = None) -> np.ndarray:
    """The array in an IDX file.

    Args:
      path: the file, gzipped or not.
      magic: the magic number it should have, if any: 0x0803 for MNIST's images, 0x0801 for its labels.
    Returns:
      An array of the shape and dtype that the file says: uint8, int8, int16, int32, float32 or float64.
    Raises:
      MissingFileError: there is no such file.
      FileError: the file cannot be read, is not of this kind, or has more or fewer bytes than its
        header says.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels"
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    >>> read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    data = read_bytes(path)
    found = int.from_bytes(data[:4], "big")
    kind = f" of {KINDS[magic]}" if magic in KINDS else ""
    axes = (found if magic is None else magic) & 0xFF
    header = 4 + 4 * axes
    if len(data) < 4:
        header = 4 if magic is None else header
    elif magic is not None and found != magic:
        is_other = f", that of {KINDS[found]}: are two files swapped?" if found in KINDS else "."
        raise FileError(
            f"{path}: the magic number is {found}{is_other} {magic} was expected, for an IDX file{kind}."
        )
    elif found >> 8 not in TYPES:
        raise FileError(f"{path}: not an IDX file: it begins with {data[:4]!r}.")
    if len(data) < header:
        raise FileError(
            f"{path}: {len(data)} bytes; the header alone of an IDX file{kind} has {header}. "
            "The file is cut short: fetch it again."
        )
    dtype = np.dtype(TYPES[found >> 8])
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, header, 4))
    whole = header + math.prod(shape) * dtype.itemsize
    if len(data) != whole:
        what = "cut short" if len(data) < whole else "followed by something else"
        raise FileError(
            f"{path}: {len(data)} bytes; its header says {whole}, for an array of shape {shape}. "
            f"The file is {what}: fetch it again."
        )
    return np.frombuffer(data, dtype.newbyteorder(">"), offset=header).reshape(shape).astype(dtype)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unzipped if need be."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        size = path.stat().st_size
        raise FileError(
            f"{path}: {size} bytes that do not unzip ({error}). "
            "The file is cut short or damaged: fetch it again."
        ) from error
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file.") from error
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}.") from error


def read_mnist(folder: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MNIST from its four files: training images and labels, test images and labels.

    Args:
      folder: has `train-images-idx3-ubyte` and so on, each gzipped (`.gz`) or not.
    Returns:
      Arrays of uint8: images of shape `[n, height, width]`, labels of shape `[n]`, twice.
    Raises:
      MissingFileError: the folder or a file is not there.
      FileError: a file is damaged, or the files do not go together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder.")
    arrays = []
    for part in PARTS:
        image_path = find(folder, f"{part}-images", axes=3)
        label_path = find(folder, f"{part}-labels", axes=1)
        images, labels = read_idx(image_path, 0x0803), read_idx(label_path, 0x0801)
        if not len(images) or len(images) != len(labels):
            raise FileError(
                f"{label_path}: {len(labels)} labels; {image_path} has {len(images)} images. "
                "As many were expected, and at least one."
            )
        if labels.max() >= CLASSES:
            raise FileError(f"{label_path}: a label is {labels.max()}; 0 to 9 was expected.")
        arrays += [images, labels]
    sizes = [images.shape[1:] for images in arrays[::2]]
    if sizes[0] != sizes[1]:
        raise FileError(f"{folder}: images of {sizes[0]} for training, of {sizes[1]} for the test.")
    return arrays[0], arrays[1], arrays[2], arrays[3]


def find(folder: Path, stem: str, axes: int) -> Path:
    """The path of a file of MNIST, whichever way it is named."""
    names = [f"{stem}{mark}idx{axes}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MissingFileError(f"{folder}: no file {names[0]}, nor {', '.join(names[1:])}.")
