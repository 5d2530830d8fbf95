"""Every kernel compiles for every architecture it is meant for; no GPU is needed for that."""

from pathlib import Path

import pytest

from cdm.kernels.nvrtc import compile_source, read_source

KERNELS = Path(__file__).resolve().parents[2] / "cdm" / "kernels"
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
NOTHING = 'extern "C" __global__ void nothing() {}'
SCAN = {"DT_RANK": 16, "POLY_MASK": 0x8888}
VARIANTS = {
    "bidirectional_scan/tensor_cores.cu": [
        SCAN | {"D_STATE": 8, "HALVES": 1, "WARPS": 2, "MIN_BLOCKS": 4},
        SCAN | {"D_STATE": 16, "HALVES": 1, "WARPS": 2, "MIN_BLOCKS": 4},
        SCAN | {"D_STATE": 16, "HALVES": 2, "WARPS": 2, "MIN_BLOCKS": 2},
        SCAN | {"D_STATE": 64, "HALVES": 2, "WARPS": 1, "MIN_BLOCKS": 1},
    ],
    "bidirectional_scan/float32.cu": [
        {"D_STATE": n, "B_COLUMN": 16, "ROW": 16 + 2 * n, "CHANNELS": 64} for n in (8, 64)
    ],
    "causal_conv/bidirectional.cu": [
        {"FLOAT32": float32, "WIDTH": 4, "RUN": 16} for float32 in (0, 1)
    ],
    "causal_conv/gradient.cu": [{"BF16": bf16, "WIDTH": 4, "RUN": 16} for bf16 in (0, 1)],
    "pointwise/pointwise.cu": [
        {"FLOAT32": float32, "D_MODEL": 256, "CONTACT_DIM": 6} for float32 in (0, 1)
    ],
    "selective_scan/recurrence.cu": [{"BF16": bf16} for bf16 in (0, 1)],
    "sampling_step/sampling_step.cu": [{"CONTACT_DIM": 6}],
    "farthest_points/farthest_points.cu": [
        {"THREADS": 512, "POINTS": 16},
        {"THREADS": 1024, "POINTS": 32},
    ],
    "neighbourhoods/neighbourhoods.cu": [
        {"FLOAT32": float32, "CHANNELS": c, "K": k}
        for float32, c, k in ((1, 32, 8), (0, 64, 8), (1, 512, 16), (0, 128, 16))
    ],
    "nearest_neighbours/nearest_neighbours.cu": [{"K": k, "THREADS": 128} for k in (3, 8, 16)],
}


def test_every_source_is_listed():
    assert {path.relative_to(KERNELS).as_posix() for path in KERNELS.rglob("*.cu")} == set(VARIANTS)


@pytest.fixture(scope="module")
def nvrtc():
    try:
        compile_source(NOTHING, "sm_90")
    except Exception as error:
        pytest.skip(f"NVRTC is not installed or does not load: {error}")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("source", VARIANTS)
def test_kernels_compile(nvrtc, source, arch, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for macros in VARIANTS[source]:
        code = compile_source(read_source(KERNELS / source), arch, tuple(macros.items()))
        assert len(code.code) > 1000, macros


def test_what_was_compiled_is_kept(nvrtc, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = compile_source(NOTHING, "sm_90", (("A", 1),))
    [entry] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert entry.read_bytes() == bytes(first.code)
    kept = entry.stat().st_mtime_ns
    assert bytes(compile_source(NOTHING, "sm_90", (("A", 1),)).code) == bytes(first.code)
    assert entry.stat().st_mtime_ns == kept
    compile_source(NOTHING, "sm_90", (("A", 2),))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_a_home_that_cannot_be_written_to_costs_time_only(nvrtc, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    assert compile_source(NOTHING, "sm_90").code
