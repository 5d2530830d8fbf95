"""Runs the project's CUDA kernels on the CPU, where there is no GPU to test them on (needs g++)."""

import ctypes
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from cdm.kernels.nvrtc import read_source

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\((.*?)\)', re.S
)
# Instructions that kernels write as assembly, and the functions of cuda_on_cpu.h that replace them.
ASSEMBLY = {
    r'asm\("ex2\.approx\.ftz\.f32 %0, %1;" : "=f"\((\w+)\) : "f"\((\w+)\)\)': r"\1 = exp2f(\2)",
    r'asm\("lg2\.approx\.ftz\.f32 %0, %1;" : "=f"\((\w+)\) : "f"\((\w+)\)\)': r"\1 = log2f(\2)",
    r'asm\("cvt\.rn\.bf16x2\.f32 %0, %1, %2;" : "=r"\((\w+)\) : "f"\((\w+)\), "f"\((\w+)\)\)': (
        r"\1 = two_bf16(\2, \3)"
    ),
    r'asm\("cvt\.rn\.f16x2\.f32 %0, %1, %2;" : "=r"\((\w+)\) : "f"\((\w+)\), "f"\((\w+)\)\)': (
        r"\1 = two_halves(\2, \3)"
    ),
    r'asm\("cvt\.f32\.f16 %0, %1;" : "=f"\((\w+)\) : "h"\((\w+)\)\)': r"\1 = from_half_bits(\2)",
    # those of a whole warp, and copies into shared memory; these take several lines
    r'(?s)asm\("mma\.sync\.aligned\.m16n8k16.*?\);\n': (
        "cpu::mma<16>(d, {a.x, a.y, a.z, a.w}, {b0, b1}, low, high);\n"
    ),
    r'(?s)asm\("mma\.sync\.aligned\.m16n8k8.*?\);\n': (
        "cpu::mma<8>(d, {a[0], a[1]}, {b}, low, high);\n"
    ),
    r'(?s)asm\("movmatrix.*?\);\n': "result = cpu::transposed(pair);\n",
    r'(?s)asm volatile\("ldmatrix\.sync\.aligned\.m8n8\.x1\.shared.*?\);\n': (
        "pair = cpu::load_matrix(row, false);\n"
    ),
    r'(?s)asm volatile\("ldmatrix\.sync\.aligned\.m8n8\.x1\.trans.*?\);\n': (
        "pair = cpu::load_matrix(row, true);\n"
    ),
    r'(?s)asm volatile\("cp\.async\.ca.*?\);\n': (
        "cpu::copy_later(shared, there ? global : nullptr, sizeof(T));\n"
    ),
    r'(?s)asm volatile\("cp\.async\.commit_group.*?\);\n': "cpu::commit();\n",
    r'(?s)asm volatile\("cp\.async\.wait_group.*?\);\n': "cpu::wait_for_all_but(LEFT);\n",
}


INTEGERS = {np.int32: ctypes.c_int32, np.int64: ctypes.c_int64}


def _c_value(argument):
    """A kernel's argument as ctypes passes it."""
    if argument is None or torch.is_tensor(argument):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    return INTEGERS[type(argument)](argument)


class CpuKernel:
    """Stands in for `cdm.kernels.nvrtc.Kernel`: compiled with g++, runs on the CPU at once."""

    def __init__(self, source: Path, name: str, index: int | None, **macros: int):
        self._launch = _library(source, tuple(sorted(macros.items())))[f"on_cpu_{name}"]

    def __call__(self, grid: tuple[int, ...], block: int, *arguments) -> None:
        sizes = map(ctypes.c_int, (*(*grid, 1, 1)[:3], block))
        self._launch(*sizes, *map(_c_value, arguments))


def emulate(gpu, monkeypatch) -> None:
    """Have a module of kernels, such as cdm.kernels.pointwise.gpu, launch them on the CPU."""
    monkeypatch.setattr(gpu, "Kernel", CpuKernel)
    for name, function in vars(gpu).copy().items():
        if hasattr(function, "cache_clear"):  # it may remember kernels of a GPU
            monkeypatch.setattr(gpu, name, cache(function.__wrapped__))


@cache
def _library(source: Path, macros: tuple[tuple[str, int], ...]) -> ctypes.CDLL:
    """The kernels of a .cu file, as functions on_cpu_NAME."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++, to run kernels on the CPU: apt-get install g++")
    code = read_source(source)
    for assembly, replacement in ASSEMBLY.items():
        code = re.sub(assembly, replacement, code)
    defined = [f"#define {key} {int(value)}" for key, value in macros]
    parts = [f'#include "{HEADER}"', *defined, code]
    for name, parameters in KERNEL.findall(code):
        listed = re.search(rf"#define {parameters} ((?:.*\\\n)*.*)", code)  # by a macro?
        names = ", ".join(re.findall(r"(\w+)(?:,|$)", listed[1] if listed else parameters))
        parts.append(
            f'extern "C" void on_cpu_{name}(int grid_x, int grid_y, int grid_z, int threads, '
            f"{parameters}) {{ cpu::launch(grid_x, grid_y, grid_z, threads, "
            f"[=] {{ {name}({names}); }}); }}"
        )
    with TemporaryDirectory() as folder:
        program, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        program.write_text("\n".join(parts))
        flags = "-std=c++20 -O1 -w -shared -fPIC".split()
        subprocess.run(["g++", *flags, program, "-o", library], check=True)
        return ctypes.CDLL(library)
