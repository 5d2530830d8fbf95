"""CUDA kernels of our own: compiled by NVRTC when first needed, kept in the user's cache.

A kernel is a .cu file beside the function that launches it; sizes known when a model is loaded
are macros. NVRTC comes with torch's CUDA builds, so neither a compiler nor a CUDA toolkit is
needed; what was compiled is kept under `~/.cache/cuda-python/` (`XDG_CACHE_HOME` moves it), by
source, macros, architecture and version of the compiler.
"""

import importlib.util
import re
from functools import cache
from pathlib import Path

import numpy as np
import torch

OLDEST = (8, 0)  # compute capability: bfloat16 on tensor cores


@cache
def unavailable(device_index: int = 0) -> str | None:
    """Why kernels of our own cannot run on a CUDA device, or None if they can."""
    if importlib.util.find_spec("cuda") is None or not importlib.util.find_spec("cuda.core"):
        return "the package cuda-core is not installed: pip install -c constraints.txt -e ."
    capability = torch.cuda.get_device_capability(device_index)
    if capability < OLDEST:
        return f"compute capability {capability[0]}.{capability[1]} is older than 8.0"
    try:
        _load('extern "C" __global__ void nothing() {}', device_index, ()).get_kernel("nothing")
    except Exception as error:
        return f"NVRTC does not work here ({type(error).__name__}: {error})"
    return None


def compile_source(code: str, arch: str, macros: tuple[tuple[str, int], ...] = ()):
    """Compile CUDA C++, or take what was compiled before; no GPU is needed for that.

    Args:
        code: of a .cu file.
        arch: such as "sm_90".
        macros: pairs of name and value.
    Returns:
        `cuda.core.ObjectCode`
    """
    from cuda.core import Program, ProgramOptions
    from cuda.core.utils import FileStreamProgramCache

    defined = [(name, str(int(value))) for name, value in macros]
    options = ProgramOptions(arch=arch, std="c++17", define_macro=defined or None)
    program = Program(code, "c++", options)
    try:
        with FileStreamProgramCache() as kept:
            return program.compile("cubin", cache=kept)
    except OSError:  # a home that is full or not to be written to costs seconds, not the job
        return program.compile("cubin")


class Kernel:
    """One compiled kernel of a .cu file, on one device.

    Args:
        source: path of the file.
        name: of the extern "C" function.
        device_index: CUDA device.
        macros: what the file says its caller defines.
    """

    def __init__(self, source: Path, name: str, device_index: int, **macros: int):
        code = _load(read_source(source), device_index, tuple(sorted(macros.items())))
        self._kernel = code.get_kernel(name)

    def __call__(self, grid: tuple[int, ...], block: int, *arguments) -> None:
        """Launch on torch's current stream.

        Args:
            grid: blocks in each dimension.
            block: threads of a block.
            arguments: tensors (None: a null pointer) and numpy scalars of the C types' widths.
        """
        from cuda.core import LaunchConfig, Stream, launch

        stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
        pointers = [
            a.data_ptr() if torch.is_tensor(a) else 0 if a is None else a for a in arguments
        ]
        launch(stream, LaunchConfig(grid=grid, block=block), self._kernel, *pointers)


def read_source(path: Path) -> str:
    """A .cu file with `#include "NAME"` replaced by the text of NAME, which lies beside this file.

    So what was compiled is kept by all of its text.
    """
    return re.sub(
        r'^#include "(.+)"$',
        lambda found: Path(__file__).with_name(found[1]).read_text("utf-8"),
        path.read_text("utf-8"),
        flags=re.MULTILINE,
    )


def ints(*values: int) -> tuple[np.int32, ...]:
    """Arguments of the C type `int`."""
    return tuple(map(np.int32, values))


def even_rows(x: torch.Tensor) -> torch.Tensor:
    """(batch, length, width) with rows x.stride(1) apart: x where they are, else a copy."""
    even = x.stride(2) == 1 and x.stride(0) == x.stride(1) * x.shape[1]
    return x if even else x.contiguous()


@cache
def _load(code: str, device_index: int, macros: tuple[tuple[str, int], ...]):
    from cuda.core import Device

    with torch.cuda.device(device_index):
        torch.cuda.current_stream().synchronize()  # the device's primary context exists
        Device(device_index).set_current()
        major, minor = torch.cuda.get_device_capability(device_index)
        return compile_source(code, f"sm_{major}{minor}", macros)
