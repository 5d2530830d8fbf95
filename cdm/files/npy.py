"""Arrays in numpy's .npy format, read by several threads at a time.

numpy parses a header with `ast.literal_eval`, which CPython 3.11 does not do safely in threads: now
and then it raises SystemError ("AST constructor recursion depth mismatch": the interpreter keeps
that depth for all threads together). A good file would pass for a damaged one.
So the form that numpy writes is read here without it, and any other form by one thread at a time.
"""

import io
import math
import re
import struct
import threading
from typing import IO, NamedTuple

import numpy as np

LONGEST_HEADER = 10_000  # bytes, numpy's own limit
_PLAIN = re.compile(
    rb"\{'descr': '([^'\\]+)', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \}\s*"
)
_parsing = threading.Lock()


class Header(NamedTuple):
    """What stands in front of an array's numbers.

    Attributes:
        fortran: whether the first axis runs fastest.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def read_header(file: IO[bytes]) -> Header:
    """The header of an .npy; the file is then at the first number.

    Raises:
        ValueError: not in numpy's format, or cut off.
    """
    major, _ = np.lib.format.read_magic(file)
    size_format = "<H" if major == 1 else "<I"
    size = file.read(struct.calcsize(size_format))
    if len(size) < struct.calcsize(size_format):
        raise ValueError("the header is cut off")
    length = struct.unpack(size_format, size)[0]
    if length > LONGEST_HEADER:
        raise ValueError(f"the header has {length} bytes, expected at most {LONGEST_HEADER}")
    text = file.read(length)
    if len(text) < length:
        raise ValueError("the header is cut off")
    plain = _PLAIN.fullmatch(text)
    if plain is None:
        return naive_read_header(major, size + text)
    descr, fortran, shape = plain.groups()
    sizes = tuple(int(size) for size in shape.split(b",") if size.strip())
    return Header(sizes, fortran == b"True", np.dtype(descr.decode("latin-1")))


def naive_read_header(major: int, rest: bytes) -> Header:
    """The same by numpy, of all that follows magic and version."""
    read = np.lib.format
    with _parsing:
        header = (read.read_array_header_1_0 if major == 1 else read.read_array_header_2_0)(
            io.BytesIO(rest)
        )
    return Header(*header)


def read_array(file: IO[bytes], header: Header) -> np.ndarray:
    """The numbers after a header, to the file's end.

    Returns:
        a new array, in the memory order of the file.
    Raises:
        ValueError: objects, too few bytes, or more than the array has.
    """
    shape, fortran, dtype = header
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are not loaded")
    size = dtype.itemsize * math.prod(shape)
    data = file.read(size + 1)
    if len(data) != size:
        more = "more bytes than" if len(data) > size else f"{len(data)} bytes, not the {size} of"
        raise ValueError(f"{more} the array has")
    return np.ndarray(shape, dtype, bytearray(data), order="F" if fortran else "C")
