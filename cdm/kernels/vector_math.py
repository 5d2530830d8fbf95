"""exp2, softplus and SiLU in float32 as short polynomials, and how CPU kernels are compiled.

LLVM turns these polynomials into vector code. numba's own calls of libm stay scalar and cost ten
times more. Wherever the exact value is a normal number, the relative error of exp2 is below 1e-7,
and that of softplus and SiLU below 2.1e-7 (1 + |x|), because their exponent log2(e) x is rounded.
"""

import contextlib
import hashlib
import pickle
import zlib
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic

from cdm.errors import ConfigError

VERSION = zlib.crc32(Path(__file__).read_bytes())  # of this file, which kernels inline
CHECKSUM_BYTES = hashlib.sha256().digest_size

LOG2_E = np.float32(1.4426950408889634)

_ONE = np.float32(1)
_ROUND = np.float32(1.5 * 2**23)  # adding it rounds to an integer, in the low bits of the mantissa
_MANTISSA_BITS = np.int32(23)
# 2^f = 1 + f * q(f) on [-0.5, 0.5], error 2e-9. It is exact at 0, so that slow decays do not drift.
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5 = (
    np.float32(q)
    for q in (
        0.6931471824645996, 0.24022647738456726, 0.055503323674201965,
        0.009618435986340046, 0.0013398852897807956, 0.00015353597700595856,
    )
)  # fmt: skip
# log1p(e) = e * p(e) on [0, 1], error 5e-9.
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7, _P8, _P9 = (
    np.float32(p)
    for p in (
        1.0, -0.4999990165233612, 0.3332996368408203, -0.24954132735729218,
        0.19675934314727783, -0.15305574238300323, 0.1060362309217453, -0.056959208101034164,
        0.019851282238960266, -0.0032439841888844967,
    )
)  # fmt: skip

inline = njit(inline="always", fastmath={"contract"})


@intrinsic
def use_widest_vectors(typing_context):
    """Have LLVM compile the calling kernel for the widest vectors of the CPU.

    On CPUs of Intel with AVX-512, LLVM takes only half of their width if it is not told. An element
    goes through the same operations at any width, so no result depends on this.
    """

    def codegen(context, builder, signature, args):
        # llvmlite knows no name for this attribute, so its check of names is passed by.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def copy_vector(typing_context, to, i, source, k, width):
    """to.flat[i + c] = source.flat[k + c] for c < width, as one vector; nothing is checked.

    Args:
        to, source: float32 arrays, contiguous in C's order.
        width: an int that is known when the kernel is compiled.
    """

    def codegen(context, builder, signature, args):
        to, i, source, k = args[:4]
        vector = ir.VectorType(ir.FloatType(), signature.args[4].literal_value)

        def place(array, kind, offset):
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

        values = builder.load(place(source, signature.args[2], k), align=4)
        builder.store(values, place(to, signature.args[0], i), align=4)
        return context.get_dummy_value()

    if not isinstance(width, types.IntegerLiteral):
        raise RequireLiteralValue("width")
    return types.void(to, types.intp, source, types.intp, width), codegen


@intrinsic
def as_int(typing_context, x):
    """The bits of a float32 as an int32. For x >= 0 their order is that of the numbers."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def _as_float(typing_context, i):
    """The float32 that has these bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _clamp(typing_context, x):
    """x limited to [-125, 127], where 2^x is a normal number; NaN stays NaN."""

    def codegen(context, builder, signature, args):
        (x,) = args
        for comparison, limit in (("<", -125.0), (">", 127.0)):
            limit = ir.Constant(ir.FloatType(), limit)
            x = builder.select(builder.fcmp_ordered(comparison, x, limit), limit, x)
        return x

    return types.float32(types.float32), codegen


@inline
def exp2(x):
    """2^x for x in [-125, 127]; the value at the nearer end outside, and NaN for NaN."""
    x = _clamp(x)
    rounded = x + _ROUND
    f = x - (rounded - _ROUND)
    q = ((((_Q5 * f + _Q4) * f + _Q3) * f + _Q2) * f + _Q1) * f + _Q0
    return _as_float(as_int(q * f + _ONE) + (as_int(rounded) << _MANTISSA_BITS))


@inline
def softplus(x):
    """log(1 + e^x), as max(x, 0) + log1p(e^-|x|)."""
    e = exp2(-abs(x) * LOG2_E)
    p = ((((_P9 * e + _P8) * e + _P7) * e + _P6) * e + _P5) * e + _P4
    p = (((p * e + _P3) * e + _P2) * e + _P1) * e + _P0
    return (x + abs(x)) * np.float32(0.5) + e * p


@inline
def silu(x):
    """x / (1 + e^-x)."""
    return x / (_ONE + exp2(-x * LOG2_E))


def compile_kernel(function, contract=True):
    """Compile a kernel with numba, and keep the result on disk for later processes.

    A cache that is damaged, or cannot be written to, costs the compilation and no more.

    Args:
        contract: whether a product and a sum may become one operation, which rounds once.
    Raises:
        ConfigError: numba was told to compile nothing; the kernels cannot run uncompiled.
    """
    if config.DISABLE_JIT:
        raise ConfigError(
            "NUMBA_DISABLE_JIT is set (a variable, or disable_jit in .numba_config.yaml in the "
            "working folder), but kernels for CPUs have to be compiled. Take it out (unset "
            "NUMBA_DISABLE_JIT), and run the same command again"
        )
    fastmath = {"contract"} if contract else False
    kernel = njit(nogil=True, fastmath=fastmath, error_model="numpy")(function)
    # Without a folder that numba can write to (RuntimeError) the kernel is not kept.
    with contextlib.suppress(RuntimeError):
        kernel._cache = _CheckedCache(function)  # as enable_caching() does with a FunctionCache
    return kernel


class _CheckedCache(FunctionCache):
    """numba's cache of a function, which compiles again instead of failing when it is damaged.

    numba's own cache trusts its files: an empty one, left behind by a power cut, would end every
    later job, and a flipped bit in the machine code would change the results in silence.
    """

    def __init__(self, py_func):
        super().__init__(py_func)
        self._cache_file = _CheckedFile(
            self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )

    def _index_key(self, sig, codegen):
        """numba's key, with the content of all source that is compiled into the kernel.

        numba looks at the kernel's bytecode and closure, but not at what the kernel inlines from
        this module, and judges its own module's constants by the file's date.
        """
        own = zlib.crc32(Path(self._py_func.__code__.co_filename).read_bytes())
        return *super()._index_key(sig, codegen), own, VERSION

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            with contextlib.suppress(OSError):
                self.flush()  # forget every entry: this one's file, or the index, is damaged
            return None

    def save_overload(self, sig, data):
        with contextlib.suppress(OSError):  # a full disk, a folder that became read-only
            super().save_overload(sig, data)


class _CheckedFile(IndexDataCacheFile):
    """numba's cache files, each entry with its key and a SHA-256."""

    def save(self, key, data):
        super().save(key, (key, data))

    def load(self, key):
        entry = super().load(key)
        if entry is None:
            return None
        saved_key, data = entry
        if saved_key != key:
            raise ValueError("the index names the file of another entry")
        return data

    def _load_index(self):
        try:
            return super()._load_index()
        except Exception:  # unpickling damaged bytes can raise anything
            return {}

    def _save_data(self, name, data):
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(content).digest() + content)

    def _load_data(self, name):
        content = Path(self._data_path(name)).read_bytes()
        checksum, content = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
        if hashlib.sha256(content).digest() != checksum:
            raise ValueError("the entry is damaged")
        return pickle.loads(content)
