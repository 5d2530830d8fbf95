"""Vector functions against exact values, and the cache of compiled CPU kernels."""

import os
from pathlib import Path

import numpy as np
import pytest
from numba import config
from numba.core.errors import TypingError

from cdm.errors import ConfigError
from cdm.kernels import vector_math
from cdm.kernels.vector_math import (
    compile_kernel,
    copy_vector,
    exp2,
    silu,
    softplus,
    use_widest_vectors,
)


def on_all(function):
    def apply(x, y):
        for i in range(len(x)):
            y[i] = function(x[i])

    return vector_math.njit(fastmath={"contract"}, error_model="numpy")(apply)


EXACT = {
    exp2: np.exp2,
    softplus: lambda x: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0),
    silu: lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("function", EXACT, ids=lambda f: f.py_func.__name__)
def test_functions_are_within_their_error_of_the_exact_value(function):
    x = np.concatenate([np.linspace(-80, 80, 100_003), [0.0, -0.0, 1e-30, -1e-30]])
    x = x.astype(np.float32)
    y = np.empty_like(x)
    on_all(function)(x, y)
    exact = EXACT[function](x.astype(np.float64))
    normal = np.abs(exact) > np.finfo(np.float32).tiny
    assert normal.sum() > 100_000
    bound = 1e-7 if function is exp2 else 2.1e-7 * (1 + np.abs(x))
    assert (np.abs(y - exact) <= bound * np.abs(exact))[normal].all()
    assert (np.abs(y - exact)[~normal] <= np.finfo(np.float32).tiny).all()


def test_nan_stays_nan_and_zero_gives_exactly_one():
    x = np.array([np.nan, 0], np.float32)
    y = np.empty_like(x)
    on_all(exp2)(x, y)
    assert np.isnan(y[0]) and y[1] == 1


def silu_of_all(x, y):
    for i in range(len(x)):
        y[i] = silu(x[i])


def silu_of_all_in_wide_vectors(x, y):
    use_widest_vectors()
    for i in range(len(x)):
        y[i] = silu(x[i])


def test_the_width_of_vectors_changes_no_bit_of_a_result():
    x = np.linspace(-30, 30, 1003, dtype=np.float32)
    results = []
    for function in (silu_of_all, silu_of_all_in_wide_vectors):
        kernel = vector_math.njit(fastmath={"contract"}, error_model="numpy")(function)
        results.append(np.zeros_like(x))
        kernel(x, results[-1])
    assert results[0].any() and (results[0] == results[1]).all()
    # It is the width that LLVM was told, and on a CPU with AVX-512 that it took.
    assert '"prefer-vector-width"="512"' in "".join(kernel.inspect_llvm().values())
    if "avx512f" in Path("/proc/cpuinfo").read_text():
        assert "zmm" in "".join(kernel.inspect_asm().values())


def test_a_vector_is_copied_from_any_place_to_any_other():
    @vector_math.njit
    def copy(to, i, source, k):
        copy_vector(to, i, source, k, 16)

    source = np.arange(100, dtype=np.float32).reshape(4, 25)
    to = np.zeros((3, 20), np.float32)
    copy(to, 21, source, 30)
    expected = np.zeros(60, np.float32)
    expected[21:37] = np.arange(30, 46)
    assert (to.ravel() == expected).all()


def test_the_width_of_a_copied_vector_must_be_known_when_the_kernel_is_compiled():
    @vector_math.njit
    def copy(to, source, width):
        copy_vector(to, 0, source, 0, width)

    with pytest.raises(TypingError):
        copy(np.zeros(16, np.float32), np.zeros(16, np.float32), int(os.getpid() > 0) + 15)


# ---- the cache ----


def scale(x, factor):
    for i in range(len(x)):
        x[i] = x[i] * factor


FLOATS = np.arange(5, dtype=np.float32)
SIGNATURES = {"float": np.float32(2), "integer": 2}  # two entries of one index


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def run():
    """Compile and call the kernel as a new process would; returns how many entries were read."""
    kernel = compile_kernel(scale)
    for factor in SIGNATURES.values():
        x = FLOATS.copy()
        kernel(x, factor)
        np.testing.assert_array_equal(x, [0, 2, 4, 6, 8])
    return sum(kernel.stats.cache_hits.values())


def files(folder):
    [index] = folder.rglob("*.nbi")
    return index, sorted(folder.rglob("*.nbc"))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_a_compiled_kernel_is_read_by_later_processes(folder):
    assert run() == 0
    assert run() == 2
    assert len(files(folder)[1]) == 2


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "other bytes": lambda path: path.write_bytes(b"not a pickle\n" * 9),
    "another object": lambda path: path.write_bytes(b"\x80\x04K\x01."),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("which", ["index", "entry"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_compiled_again(folder, damage, which):
    run()
    index, entries = files(folder)
    DAMAGE[damage](index if which == "index" else entries[0])
    assert run() < 2
    if damage != "a folder":  # which numba cannot replace
        assert run() == 2


def test_a_flipped_bit_anywhere_changes_no_result_and_ends_no_job(folder):
    run()
    index, entries = files(folder)
    for path in (index, entries[0]):
        size = path.stat().st_size
        for place in np.linspace(0, size - 1, 5, dtype=int):
            flip(path, place)
            run()
    index, entries = files(folder)
    flip(entries[0], entries[0].stat().st_size // 2)
    assert run() < 2


def test_an_entry_under_the_name_of_another_is_not_taken(folder):
    """The two signatures' code exchanged: it would be called with the wrong argument types."""
    run()
    _, (a, b) = files(folder)
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)
    assert run() == 0
    assert run() == 2


def test_a_change_of_the_inlined_functions_compiles_again(folder, monkeypatch):
    run()
    monkeypatch.setattr(vector_math, "VERSION", vector_math.VERSION + 1)
    assert run() == 0


def test_a_change_of_a_kernels_own_constants_compiles_again_whatever_the_dates(
    folder, tmp_path, monkeypatch
):
    """numba compares a source's date and size; a file copied with its date shows neither."""
    import importlib.util
    import os

    def result(constant):
        path = tmp_path / "own.py"
        path.write_text(f"FACTOR = {constant}\n\ndef kernel(x):\n    x[0] = FACTOR\n")
        os.utime(path, (1e9, 1e9))
        spec = importlib.util.spec_from_file_location("own", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        spec.loader.exec_module(module)
        x = np.zeros(1, np.float32)
        compile_kernel(module.kernel)(x)
        return x[0]

    assert result(3) == 3
    assert result(5) == 5


def test_a_cache_that_cannot_be_written_costs_the_compilation_only(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vector_math.IndexDataCacheFile, "_open_for_write", full)
    assert run() == 0
    assert run() == 0


def test_without_any_folder_for_a_cache_kernels_run(monkeypatch):
    monkeypatch.setattr(vector_math.FunctionCache._impl_class, "_locator_classes", [])
    assert run() == 0


def test_numba_that_compiles_nothing_is_told_with_what_to_type(monkeypatch):
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    with pytest.raises(ConfigError, match=r"^NUMBA_DISABLE_JIT is set .*unset NUMBA_DISABLE_JIT"):
        compile_kernel(lambda x: x)
