"""Reading IDX files, the format of MNIST: `magic, sizes, bytes`, gzipped or not."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np

MAGIC = {2049: 1, 2051: 3}  # labels, images: number of axes


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file.

    Raises:
      ValueError: the file is not of this format, or is cut short.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            raise ValueError(f"{path}: the gzip stream is damaged or cut short ({error}); fetch it again") from error
    magic = int.from_bytes(data[:4], "big")
    if magic not in MAGIC:
        raise ValueError(f"{path}: not an IDX file of images or labels: its magic number is {magic}")
    axes = MAGIC[magic]
    header = 4 + 4 * axes
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise ValueError(
            f"{path}: {len(data)} bytes where its header, of shape {shape}, calls for {expected}; the file is cut "
            "short or damaged: fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, test images and labels, from the four files of MNIST.

    Raises:
      ValueError: a file is missing or damaged, or images and labels are not as many.
    """
    arrays = []
    for part in ("train", "t10k"):
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            names = [f"{part}-{kind}", f"{part}-{kind}.gz", f"{part}-{kind.replace('-idx', '.idx')}"]
            found = next((folder / n for n in names if (folder / n).is_file()), None)
            if found is None:
                raise ValueError(f"{folder}: no file {names[0]} or {names[1]}")
            arrays.append(read_idx(found))
    for images, labels in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise ValueError(f"{folder}: images of shape {images.shape} do not go with labels of shape {labels.shape}")
    return tuple(arrays)
