"""CUDA kernels of ours on the CPU, where there is no GPU to test them on (needs g++)."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from cdm.kernels.nvrtc import read_source

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\((.*?)\)', re.S
)
EXP2 = re.compile(r'asm\("ex2\.approx\.ftz\.f32 %0, %1;" : "=f"\((\w+)\) : "f"\((\w+)\)\)')


class Emulator:
    """The kernels of a .cu file.

    Args:
        folder: where the compiled library goes.
        macros: what the file says its caller defines.
    """

    def __init__(self, source: Path, folder: Path, **macros: int):
        if shutil.which("g++") is None:
            pytest.skip("g++ is not installed: kernels cannot be run on the CPU")
        code = EXP2.sub(r"\1 = exp2f(\2)", read_source(source))
        defined = [f"#define {key} {int(value)}" for key, value in macros.items()]
        parts = [f'#include "{HEADER}"', *defined, code]
        for name, parameters in KERNEL.findall(code):
            names = ", ".join(re.findall(r"(\w+)(?:,|$)", parameters))
            parts.append(
                f'extern "C" void on_cpu_{name}(int grid_x, int grid_y, int threads, {parameters}) '
                f"{{ launch(grid_x, grid_y, threads, [=] {{ {name}({names}); }}); }}"
            )
        stem = "-".join([source.stem, *(f"{k}{int(v)}" for k, v in macros.items())])
        program, library = folder / f"{stem}.cpp", folder / f"{stem}.so"
        program.write_text("\n".join(parts))
        flags = "-std=c++20 -O1 -w -pthread -shared -fPIC".split()
        subprocess.run(["g++", *flags, program, "-o", library], check=True)
        self._library = ctypes.CDLL(library)

    def kernel(self, name: str):
        """What stands for `cdm.kernels.nvrtc.Kernel`: called with grid, block and arguments."""

        def run(grid, block, *arguments):
            plain = [
                ctypes.c_void_p(a.data_ptr()) if torch.is_tensor(a) else ctypes.c_int(int(a))
                for a in arguments
            ]
            self._library[f"on_cpu_{name}"](*map(ctypes.c_int, (*grid, block)), *plain)

        return run
