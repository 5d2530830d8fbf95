"""Compiles the project's CUDA kernels with NVRTC when they are first needed, and launches them.

A kernel is a .cu file beside the Python function that launches it. Sizes that are known when a
model is loaded are macros. NVRTC comes with torch's CUDA builds, so neither a compiler nor a CUDA
toolkit is needed. Compiled kernels are kept under `~/.cache/cuda-python/` (`XDG_CACHE_HOME`
replaces `~/.cache`), by source, macros, architecture and version of the compiler. A damaged entry
is compiled again.
"""

import contextlib
import hashlib
import importlib.util
import re
from functools import cache
from pathlib import Path

import numpy as np
import torch

OLDEST = (8, 0)  # compute capability; older devices have no bfloat16 on tensor cores
ELEMENTS = torch.float32, torch.bfloat16, torch.float16  # dtypes that elements.cuh knows


@cache
def unavailable(index: int = 0) -> str | None:
    """Why CUDA device `index` cannot run the project's kernels, or None if it can."""
    if importlib.util.find_spec("cuda") is None or not importlib.util.find_spec("cuda.core"):
        return "the package cuda-core is not installed: pip install -c constraints.txt -e ."
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        return f"compute capability {capability[0]}.{capability[1]} is older than 8.0"
    try:
        _load('extern "C" __global__ void nothing() {}', index, ()).get_kernel("nothing")
    except Exception as error:
        return f"NVRTC does not work here ({type(error).__name__}: {error})"
    return None


def import_ahead() -> None:
    """Import and load what `unavailable` and `Kernel` need, without starting CUDA.

    A job does this while it waits for a GPU, because it takes up to a second.
    """
    with contextlib.suppress(Exception):  # `unavailable` says what is wrong
        from cuda.core import Program, ProgramOptions

        Program('extern "C" __global__ void nothing() {}', "c++", ProgramOptions(arch="sm_80"))
        _checked_cache()


def device_index(device: torch.device) -> int:
    """The number of a CUDA device; torch's current device if it has no number."""
    return torch.cuda.current_device() if device.index is None else device.index


def compile_source(code: str, arch: str, macros: tuple[tuple[str, int], ...] = ()):
    """Compile CUDA C++, or read what was compiled before; this needs no GPU.

    Args:
        code: text of a .cu file.
        arch: such as "sm_90".
        macros: pairs of name and value.
    Returns:
        `cuda.core.ObjectCode`
    """
    from cuda.core import Program, ProgramOptions

    defined = [(name, str(int(value))) for name, value in macros]
    options = ProgramOptions(arch=arch, std="c++17", define_macro=defined or None)
    program = Program(code, "c++", options)
    try:
        with _checked_cache()() as kept:
            return program.compile("cubin", cache=kept)
    except OSError:  # a cache that cannot be written to costs seconds of compiling, not the job
        return program.compile("cubin")


class Kernel:
    """One compiled kernel of a .cu file, on one device.

    Args:
        source: path of the file.
        name: of the extern "C" function.
        index: CUDA device.
        macros: what the file says its caller defines.
    """

    def __init__(self, source: Path, name: str, index: int, **macros: int):
        self._index = index
        code = _load(read_source(source), index, tuple(sorted(macros.items())))
        with torch.cuda.device(index):
            self._kernel = code.get_kernel(name)

    def __call__(self, grid: tuple[int, ...], block: int, *arguments) -> None:
        """Launch on this kernel's device, on torch's current stream of that device.

        Args:
            grid: number of blocks in each dimension.
            block: number of threads per block.
            arguments: tensors on this kernel's device, None for a null pointer, and numpy
                scalars as wide as the C types.
        Raises:
            ValueError: a tensor lies on another device.
        """
        if torch.cuda.current_device() == self._index:  # the usual case costs one call
            self._launch(grid, block, arguments)
        else:
            with torch.cuda.device(self._index):
                self._launch(grid, block, arguments)

    def _launch(self, grid, block, arguments):
        from cuda.core import LaunchConfig, Stream, launch

        pointers = []
        for argument in arguments:
            if torch.is_tensor(argument):
                if argument.get_device() != self._index:
                    raise ValueError(
                        f"a kernel of cuda:{self._index} was given a tensor on {argument.device}"
                    )
                argument = argument.data_ptr()
            pointers.append(0 if argument is None else argument)
        stream = Stream.from_handle(torch.cuda.current_stream(self._index).cuda_stream)
        launch(stream, LaunchConfig(grid=grid, block=block), self._kernel, *pointers)


def read_source(path: Path) -> str:
    """The text of a .cu file, with every `#include "NAME"` replaced by the text of that header.

    Headers lie beside this Python file. Inlining them makes the cache key cover them.
    """
    return re.sub(
        r'^#include "(.+)"$',
        lambda found: Path(__file__).with_name(found[1]).read_text("utf-8"),
        path.read_text("utf-8"),
        flags=re.MULTILINE,
    )


def element_macros(dtype: torch.dtype) -> dict[str, bool]:
    """The macros that tell elements.cuh one of ELEMENTS."""
    return {"BF16": dtype == torch.bfloat16, "FP16": dtype == torch.float16}


def ints(*values: int) -> tuple[np.int32, ...]:
    """Kernel arguments of the C type `int`."""
    return tuple(map(np.int32, values))


def even_rows(x: torch.Tensor) -> torch.Tensor:
    """Make all rows of (batch, length, width) lie x.stride(1) apart; a copy only if needed."""
    even = x.stride(2) == 1 and x.stride(0) == x.stride(1) * x.shape[1]
    return x if even else x.contiguous()


@cache
def _load(code: str, index: int, macros: tuple[tuple[str, int], ...]):
    """Compile a source for a device; kept for the rest of this process, for each device apart."""
    from cuda.core import Device

    with torch.cuda.device(index):
        # Synchronising creates the device's primary context, which cuda.core then takes over.
        torch.cuda.current_stream(index).synchronize()
        Device(index).set_current()
        major, minor = torch.cuda.get_device_capability(index)
        return compile_source(code, f"sm_{major}{minor}", macros)


@cache
def _checked_cache():
    """cuda.core's cache on disk, which also keeps each entry's SHA-256 and checks it."""
    from cuda.core.utils import FileStreamProgramCache

    class CheckedCache(FileStreamProgramCache):
        """An entry that is damaged, or has no checksum, is treated as missing."""

        def __getitem__(self, key):
            code = super().__getitem__(key)
            if super().__getitem__(_checksum_key(key)) != hashlib.sha256(code).digest():
                raise KeyError(key)
            return code

        def __setitem__(self, key, value):
            code = bytes(getattr(value, "code", value))
            super().__setitem__(key, code)
            super().__setitem__(_checksum_key(key), hashlib.sha256(code).digest())

    return CheckedCache


def _checksum_key(key: bytes) -> bytes:
    return key + b" sha256"
