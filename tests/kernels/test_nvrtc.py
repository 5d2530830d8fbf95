"""Kernels compile for every architecture, are kept, and are launched on their tensors' device.

None of this needs a GPU.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

from cdm.kernels import nvrtc as nvrtc_module
from cdm.kernels.conv_projection.gpu import kernel_macros
from cdm.kernels.nvrtc import Kernel, compile_source, read_source

KERNELS = Path(__file__).resolve().parents[2] / "cdm" / "kernels"
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
NOTHING = 'extern "C" __global__ void nothing() {}'
SCAN = {"DT_RANK": 16, "POLY_MASK": 0x8888, "FP16": 0}
ELEMENTS = [nvrtc_module.element_macros(dtype) for dtype in reversed(nvrtc_module.ELEMENTS)]
VARIANTS = {
    "bidirectional_scan/tensor_cores.cu": [
        SCAN | {"D_STATE": 8, "HALVES": 1, "WARPS": 2, "MIN_BLOCKS": 4},
        SCAN | {"D_STATE": 16, "HALVES": 1, "WARPS": 2, "MIN_BLOCKS": 4},
        SCAN | {"D_STATE": 16, "HALVES": 2, "WARPS": 2, "MIN_BLOCKS": 2},
        SCAN | {"D_STATE": 64, "HALVES": 2, "WARPS": 1, "MIN_BLOCKS": 1},
        SCAN | {"D_STATE": 16, "HALVES": 2, "WARPS": 2, "MIN_BLOCKS": 2, "FP16": 1},
    ],
    "bidirectional_scan/float32.cu": [
        {"D_STATE": n, "B_COLUMN": 16, "ROW": 16 + 2 * n, "CHANNELS": 64} for n in (8, 64)
    ],
    "causal_conv/bidirectional.cu": [element | {"WIDTH": 4, "RUN": 16} for element in ELEMENTS],
    "conv_projection/conv_projection.cu": [
        kernel_macros(dtype, d_inner, 4, columns, 2 * d_inner)
        for dtype, d_inner, columns in (
            (torch.bfloat16, 512, 48),
            (torch.bfloat16, 1024, 80),
            (torch.float16, 192, 144),
        )
    ],
    "causal_conv/gradient.cu": [{"BF16": bf16, "WIDTH": 4, "RUN": 16} for bf16 in (0, 1)],
    "pointwise/pointwise.cu": [
        element | {"D_MODEL": 256, "CONTACT_DIM": 6} for element in ELEMENTS
    ],
    "selective_scan/recurrence.cu": [{"BF16": bf16} for bf16 in (0, 1)],
    "sampling_step/sampling_step.cu": [{"CONTACT_DIM": 6}],
    "farthest_points/farthest_points.cu": [
        {"THREADS": 512, "POINTS": 16},
        {"THREADS": 1024, "POINTS": 32},
    ],
    "neighbourhoods/neighbourhoods.cu": [
        element | {"CHANNELS": c, "K": k}
        for element in ELEMENTS
        for c, k in ((32, 8), (64, 8), (512, 16), (128, 16))
    ],
    "nearest_neighbours/nearest_neighbours.cu": [{"K": k, "THREADS": 128} for k in (3, 8, 16)],
}


# NVIDIA's driver in so far as it tells when CUDA is started; every other call does nothing.
DRIVER = """
#include <stdio.h>
#include <string.h>
static int nothing(void) { return 0; }
int cuInit(unsigned flags) { puts("cuInit"); fflush(stdout); return 0; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuGetProcAddress_v2(const char* name, void** found, int v, unsigned long long f, void* s) {
    *found = !strcmp(name, "cuInit") ? (void*)cuInit
           : !strcmp(name, "cuDriverGetVersion") ? (void*)cuDriverGetVersion
           : !strcmp(name, "cuGetProcAddress") ? (void*)cuGetProcAddress_v2 : (void*)nothing;
    return 0;
}
"""
AHEAD = """
from cdm.kernels import nvrtc
nvrtc.import_ahead()
from cuda.core import Device
print("imported", flush=True)
try:
    Device(0)
except ValueError:
    pass  # there is none
"""


def test_importing_ahead_does_not_start_cuda(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to build a driver that tells when it is started")
    (tmp_path / "driver.c").write_text(DRIVER)
    build = ["gcc", "-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"]
    subprocess.run(build, cwd=tmp_path, check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", AHEAD], env=environment, stdout=subprocess.PIPE)
    assert done.stdout.decode().split() == ["imported", "cuInit"]


def test_every_source_is_listed():
    assert {path.relative_to(KERNELS).as_posix() for path in KERNELS.rglob("*.cu")} == set(VARIANTS)


@pytest.fixture(scope="module")
def nvrtc():
    """Skips where NVRTC is not installed; where it is, what does not compile is a failure."""
    try:
        load_nvidia_dynamic_lib("nvrtc")
    except DynamicLibNotFoundError:
        pytest.skip("NVRTC is not installed: pip install -e '.[test]'")


# Every source once. Every variant takes half a minute for each architecture, and no source asks for
# which one it is compiled: CI does it for the oldest, the usual and the newest.
LONG = "sm_80", "sm_90", "sm_120"
COMPILED = [
    ("sm_90", 1),
    *(
        pytest.param(arch, None, marks=pytest.mark.long if arch in LONG else pytest.mark.exhaustive)
        for arch in ARCHITECTURES
    ),
]


def test_no_source_asks_for_its_architecture():
    assert not any("__CUDA_ARCH__" in path.read_text() for path in KERNELS.rglob("*.cu*"))


@pytest.mark.parametrize(("arch", "first"), COMPILED)
@pytest.mark.parametrize("source", VARIANTS)
def test_kernels_compile(nvrtc, source, arch, first, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for macros in VARIANTS[source][:first]:
        code = compile_source(read_source(KERNELS / source), arch, tuple(macros.items()))
        assert len(code.code) > 1000, macros


def cached_files(folder):
    return sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_what_was_compiled_is_kept_with_its_checksum(nvrtc, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = bytes(compile_source(NOTHING, "sm_90", (("A", 1),)).code)
    checksum, entry = cached_files(tmp_path)
    assert entry.read_bytes() == first
    assert checksum.read_bytes() == hashlib.sha256(first).digest()
    kept = entry.stat().st_mtime_ns
    assert bytes(compile_source(NOTHING, "sm_90", (("A", 1),)).code) == first
    assert entry.stat().st_mtime_ns == kept
    compile_source(NOTHING, "sm_90", (("A", 2),))
    assert len(cached_files(tmp_path)) == 4


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("which", ["checksum", "entry"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        flip_a_bit,
        lambda path: path.unlink(),
    ],
    ids=["empty", "truncated", "flipped bit", "missing"],
)
def test_a_damaged_entry_is_compiled_again(nvrtc, tmp_path, monkeypatch, damage, which):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = bytes(compile_source(NOTHING, "sm_90").code)
    files = dict(zip(("checksum", "entry"), cached_files(tmp_path), strict=True))
    damage(files[which])
    assert bytes(compile_source(NOTHING, "sm_90").code) == first
    assert files["entry"].read_bytes() == first  # mended for later jobs
    assert files["checksum"].read_bytes() == hashlib.sha256(first).digest()


def test_a_cache_that_cannot_be_read_or_written_costs_time_only(nvrtc, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    assert compile_source(NOTHING, "sm_90").code
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_source(NOTHING, "sm_90")
    _, entry = cached_files(tmp_path)
    entry.unlink()
    entry.mkdir()
    assert compile_source(NOTHING, "sm_90").code


# ---- launching on the right device, with torch and cuda.core replaced ----


class FakeCuda:
    """Records where kernels are launched: (torch's current device, stream) of each launch."""

    def __init__(self, monkeypatch):
        self.current, self.launched = 0, []
        fake = self

        class UseDevice:
            def __init__(self, index):
                self.index = index

            def __enter__(self):
                self.before, fake.current = fake.current, self.index

            def __exit__(self, *_):
                fake.current = self.before

        monkeypatch.setattr(torch.cuda, "current_device", lambda: fake.current)
        monkeypatch.setattr(torch.cuda, "device", UseDevice)
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=100 + index)
        )
        monkeypatch.setattr(nvrtc_module, "_load", lambda code, index, macros: self)
        core = SimpleNamespace(
            LaunchConfig=lambda grid, block: (grid, block),
            Stream=SimpleNamespace(from_handle=lambda handle: handle),
            launch=lambda stream, *_: self.launched.append((self.current, stream)),
        )
        monkeypatch.setitem(sys.modules, "cuda.core", core)

    def get_kernel(self, name):
        return name


class FakeTensor(torch.Tensor):
    """A tensor that claims to lie on cuda:`index`."""

    index = 0

    def get_device(self):
        return self.index


def tensor_on(index):
    tensor = torch.zeros(1).as_subclass(FakeTensor)
    tensor.index = index
    return tensor


@pytest.mark.parametrize("current", [0, 1, 2])
def test_a_kernel_runs_on_the_device_and_stream_of_its_tensors(monkeypatch, tmp_path, current):
    cuda = FakeCuda(monkeypatch)
    source = tmp_path / "nothing.cu"
    source.write_text(NOTHING)
    kernel = Kernel(source, "nothing", 1)
    cuda.current = current
    kernel((1,), 32, tensor_on(1), None)
    assert cuda.launched == [(1, 101)]
    assert cuda.current == current  # the caller's device is still current


def test_a_tensor_of_another_device_is_refused(monkeypatch, tmp_path):
    cuda = FakeCuda(monkeypatch)
    source = tmp_path / "nothing.cu"
    source.write_text(NOTHING)
    kernel = Kernel(source, "nothing", 1)
    for index in (0, -1):
        with pytest.raises(ValueError, match="a kernel of cuda:1 was given a tensor on"):
            kernel((1,), 32, tensor_on(1), tensor_on(index))
    assert cuda.launched == []


def test_headers_are_part_of_the_text_that_decides_the_cache_key(tmp_path):
    source = tmp_path / "a.cu"
    source.write_text('// before\n#include "elements.cuh"\n// after\n')
    text = read_source(source)
    header = (KERNELS / "elements.cuh").read_text()
    assert text == f"// before\n{header}\n// after\n"
