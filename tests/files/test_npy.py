"""Headers are read as numpy reads them, also by many threads at a time."""

import gc
import io
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cdm.files import npy
from cdm.files.npy import naive_read_header, read_array, read_header

ARRAYS = {
    "float32": np.arange(12, dtype=np.float32).reshape(3, 4),
    "one axis": np.arange(5.0),
    "no axis": np.float16(3),
    "empty": np.zeros((0, 3), np.int8),
    "columns first": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big-endian": np.arange(4, dtype=">u2"),
    "booleans": np.array([True, False]),
    "texts": np.array(["a", "bc"]),
    "times": np.array(["2026-11-28"], "datetime64[D]"),
}


def saved(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version)
    return file.getvalue()


def read(data):
    file = io.BytesIO(data)
    return read_array(file, read_header(file))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_as_numpy_reads_it_without_its_parser(name, version, monkeypatch):
    monkeypatch.setattr(npy, "naive_read_header", None)  # not called
    data = saved(ARRAYS[name], version)
    ours, theirs = read(data), np.lib.format.read_array(io.BytesIO(data))
    assert (ours.dtype, ours.shape, ours.flags.f_contiguous) == (
        theirs.dtype,
        theirs.shape,
        theirs.flags.f_contiguous,
    )
    np.testing.assert_array_equal(ours, theirs)
    assert ours.flags.writeable


def test_other_forms_of_a_header_are_numpys():
    mixed = np.zeros(3, [("x", "<f4"), ("y", "<i2")])
    np.testing.assert_array_equal(read(saved(mixed)), mixed)
    text = b"{'shape':(2,),'fortran_order':False,'descr':'<f4'}\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + np.ones(2, "<f4").tobytes()
    np.testing.assert_array_equal(read(data), np.ones(2))
    rest = struct.pack("<H", len(text)) + text
    assert naive_read_header(1, rest) == ((2,), False, np.dtype("<f4"))


def test_both_readers_see_the_same_in_a_usual_header():
    data = saved(ARRAYS["columns first"])
    assert read_header(io.BytesIO(data)) == naive_read_header(1, data[8:])


@pytest.mark.parametrize("cut", [3, 7, 9, 40, 130, -1])
def test_a_file_that_is_cut_off_is_refused(cut):
    with pytest.raises(ValueError):
        read(saved(ARRAYS["float32"])[:cut])


def test_bytes_too_many_objects_and_long_headers_are_refused():
    with pytest.raises(ValueError, match="more bytes than the array has"):
        read(saved(ARRAYS["float32"]) + b"x")
    with pytest.raises(ValueError, match="Python objects"):
        read(saved(np.array([{}], object)))
    with pytest.raises(ValueError, match="4294967295 bytes, expected at most"):
        read(b"\x93NUMPY\x02\x00" + b"\xff" * 20)


class Garbage:
    """A cycle whose end lets other threads run, wherever the interpreter happens to be."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        time.sleep(1e-5)


@pytest.fixture
def much_garbage():
    """Collected as often as can be. Without the lock, numpy's parser then fails in most runs."""
    before = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(7, 2, 2)
    sys.setswitchinterval(1e-6)
    yield
    gc.set_threshold(*before[0])
    sys.setswitchinterval(before[1])


@pytest.mark.usefixtures("much_garbage")
def test_threads_find_no_good_file_damaged():
    rest = saved(ARRAYS["float32"])[8:]

    def work(_):
        for _ in range(1000):
            for _ in range(3):
                Garbage()
            assert naive_read_header(1, rest).shape == (3, 4)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
