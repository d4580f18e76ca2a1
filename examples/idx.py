"""IDX files, the format of MNIST: a magic number, the length of each axis, then the bytes.

The magic number's last two bytes are the type of the elements (8, unsigned bytes) and the number of
axes; all numbers are big-endian. Files may be gzipped.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

KINDS = {1: "labels", 3: "images"}  # by number of axes
PARTS = ("train", "t10k")
CLASSES = 10


class IdxError(ValueError):
    """A file is missing, cut short, or not what it should be; the message names it."""


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The array in an IDX file.

    Args:
      path: the file, gzipped or not.
      axes: how many it should have: 3 for images, 1 for labels.
    Returns:
      An array of uint8.
    Raises:
      IdxError: the file cannot be read, is not of this kind, or has more or fewer bytes than its
        header says.
    """
    data = read_bytes(path)
    header = 4 + 4 * axes
    expected = 0x0800 + axes
    magic = int.from_bytes(data[:4], "big")
    if len(data) >= 4 and magic != expected:
        kind = KINDS.get(magic - 0x0800)
        is_other = f", that of {kind}: are two files swapped?" if kind else ""
        raise IdxError(
            f"{path}: the magic number is {magic}{is_other or '.'} {expected} was expected, "
            f"for an IDX file of {KINDS[axes]}."
        )
    if len(data) < header:
        raise IdxError(
            f"{path}: {len(data)} bytes; the header alone of an IDX file of {KINDS[axes]} has "
            f"{header}. The file is cut short: fetch it again."
        )
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, header, 4))
    whole = header + math.prod(shape)
    if len(data) != whole:
        what = "cut short" if len(data) < whole else "followed by something else"
        raise IdxError(
            f"{path}: {len(data)} bytes; its header says {whole}, for an array of shape {shape}. "
            f"The file is {what}: fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unzipped if need be."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        size = path.stat().st_size
        raise IdxError(
            f"{path}: {size} bytes that do not unzip ({error}). "
            "The file is cut short or damaged: fetch it again."
        ) from error
    except OSError as error:
        raise IdxError(f"{path}: {error.strerror or error}.") from error


def read_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MNIST from its four files: training images and labels, test images and labels.

    Args:
      folder: has `train-images-idx3-ubyte` and so on, each gzipped (`.gz`) or not.
    Returns:
      Arrays of uint8: images of shape `[n, height, width]`, labels of shape `[n]`, twice.
    Raises:
      IdxError: a file is missing or damaged, or the files do not go together.
    """
    if not folder.is_dir():
        raise IdxError(f"{folder}: no such folder.")
    arrays = []
    for part in PARTS:
        image_path = find(folder, f"{part}-images", axes=3)
        label_path = find(folder, f"{part}-labels", axes=1)
        images, labels = read_idx(image_path, axes=3), read_idx(label_path, axes=1)
        if not len(images) or len(images) != len(labels):
            raise IdxError(
                f"{label_path}: {len(labels)} labels; {image_path} has {len(images)} images. "
                "As many were expected, and at least one."
            )
        if labels.max() >= CLASSES:
            raise IdxError(f"{label_path}: a label is {labels.max()}; 0 to 9 was expected.")
        arrays += [images, labels]
    sizes = [images.shape[1:] for images in arrays[::2]]
    if sizes[0] != sizes[1]:
        raise IdxError(f"{folder}: images of {sizes[0]} for training, of {sizes[1]} for the test.")
    return arrays[0], arrays[1], arrays[2], arrays[3]


def find(folder: Path, stem: str, axes: int) -> Path:
    """The path of a file of MNIST, whichever way it is named."""
    names = [f"{stem}{mark}idx{axes}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise IdxError(f"{folder}: no file {names[0]}, nor {', '.join(names[1:])}.")
