"""IDX files: read back what was written; say what is wrong with the others."""

import gzip
import re

import numpy as np
import pytest

from functrace.errors import FileError, MissingFileError
from functrace.io import read_idx, read_mnist
from functrace.io.idx import TYPES
from tests.idx_files import idx_bytes, write_mnist

IMAGES = np.arange(4 * 3 * 2).reshape(4, 3, 2)
WHOLE = idx_bytes(IMAGES)  # 16 + 24 bytes
LABELS = idx_bytes(np.arange(5))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("array", [IMAGES, np.arange(5), np.zeros((0, 28, 28))])
def test_reads_back(array, pack, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pack(idx_bytes(array)))
    np.testing.assert_array_equal(read_idx(path), array)


@pytest.mark.parametrize("code", TYPES)
def test_every_type(code, tmp_path):
    """Big-endian in the file, of this machine's order in memory."""
    array = np.array([[1, 2], [3, 100]], TYPES[code])
    header = bytes([0, 0, code, 2, 0, 0, 0, 2, 0, 0, 0, 2])
    (tmp_path / "file").write_bytes(header + array.astype(array.dtype.newbyteorder(">")).tobytes())
    read = read_idx(str(tmp_path / "file"))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


@pytest.mark.parametrize("mark", "-.")
def test_reads_mnist(mark, tmp_path):
    write_mnist(tmp_path, train=6, test=2)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", f"{mark}idx"))
    shapes = [array.shape for array in read_mnist(tmp_path)]
    assert shapes == [(6, 8, 8), (6,), (2, 8, 8), (2,)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WHOLE[:-5], "35 bytes; its header says 40, for an array of shape (4, 3, 2). The file "
         "is cut short: fetch it again."),
        (WHOLE + b"\n", "41 bytes; its header says 40, for an array of shape (4, 3, 2). The "
         "file is followed by something else: fetch it again."),
        (WHOLE[:9], "9 bytes; the header alone of an IDX file of images has 16."),
        (b"", "0 bytes; the header alone of an IDX file of images has 16."),
        (b"<html><body>404</body></html>", "the magic number is 1013478509. 2051 was expected, "
         "for an IDX file of images."),
        (LABELS, "the magic number is 2049, that of labels: are two files swapped? 2051 was exp"),
        (b"\0\0\x0d\3" + WHOLE[4:], "the magic number is 3331. 2051 was expected"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "bytes that do not unzip (Compressed file ended before the "
         "end-of-stream marker was reached). The file is cut short or damaged: fetch it again."),
        (b"\x1f\x8b" + b"junk" * 9, "38 bytes that do not unzip"),
    ],
)  # fmt: skip
def test_bad_file(data, message, tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(FileError, match=re.escape(message)) as raised:
        read_idx(path, 0x0803)
    assert str(raised.value).startswith(f"{path}: ")


def test_images_in_place_of_labels(tmp_path):
    (tmp_path / "file").write_bytes(WHOLE)
    with pytest.raises(FileError, match="the magic number is 2051, that of images: are two files"):
        read_idx(tmp_path / "file", 0x0801)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes; the header alone of an IDX file has 4."),
        (b"%PDF-1.4", "not an IDX file: it begins with b'%PDF'."),
        (bytes([0, 0, 13, 1, 0, 0, 0, 2]) + bytes(7), "15 bytes; its header says 16, for an array of shape (2,)."),
    ],
)
def test_bad_file_of_any_kind(data, message, tmp_path):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(FileError, match=re.escape(message)):
        read_idx(tmp_path / "file")


def test_not_a_file(tmp_path):
    with pytest.raises(FileError, match=r": Is a directory\."):
        read_idx(tmp_path)


def test_missing_files(tmp_path):
    write_mnist(tmp_path, train=6, test=2)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingFileError, match="labels: no such file"):
        read_idx(tmp_path / "labels")
    names = r"no file t10k-labels-idx1-ubyte, nor t10k-labels-idx1-ubyte\.gz, t10k-labels\.idx1"
    with pytest.raises(MissingFileError, match=names):
        read_mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(5), r"5 labels; .*train-images.* has 6 images\."),
        ("t10k-labels-idx1-ubyte", np.array([3, 11]), r"a label is 11; 0 to 9 was expected\."),
        ("t10k-images-idx3-ubyte", np.zeros((2, 9, 8)), r"\(8, 8\) for training, of \(9, 8\)"),
    ],
)
def test_files_that_do_not_go_together(name, array, message, tmp_path):
    write_mnist(tmp_path, train=6, test=2)
    (tmp_path / name).write_bytes(idx_bytes(array))
    with pytest.raises(FileError, match=message):
        read_mnist(tmp_path)


def test_no_images(tmp_path):
    write_mnist(tmp_path, train=0, test=2)
    with pytest.raises(FileError, match=r"0 labels; .* has 0 images\. .* at least one"):
        read_mnist(tmp_path)
