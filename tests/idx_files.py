"""Small IDX files for the tests."""

import gzip

import numpy as np


def idx_bytes(array):
    """The file of an array of small whole numbers."""
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return (0x0800 + array.ndim).to_bytes(4, "big") + lengths + array.astype(np.uint8).tobytes()


def write_mnist(folder, train, test, size=8):
    """Four files of random images and labels, some gzipped."""
    rng = np.random.default_rng(0)
    for part, n in (("train", train), ("t10k", test)):
        images = idx_bytes(rng.integers(0, 256, (n, size, size)))
        labels = idx_bytes(rng.integers(0, 10, n))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
