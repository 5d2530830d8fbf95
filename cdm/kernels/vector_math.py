"""exp2, softplus and SiLU as short polynomials that LLVM turns into vector code (float32).

The libm calls of numba stay scalar and cost ten times more. Each function is within 2e-7 of the
exact value, relative, wherever that is a normal number.
"""

import zlib
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# numba's cache looks at a kernel's own file and closure, not at what it inlines from here: a kernel
# that has this number in its closure is compiled again when this file changes. Never 0.
VERSION = zlib.crc32(Path(__file__).read_bytes()) | 1

LOG2_E = np.float32(1.4426950408889634)

_ONE = np.float32(1)
_ROUND = np.float32(1.5 * 2**23)  # adding it rounds to an integer, left in the low mantissa bits
_MANTISSA_BITS = np.int32(23)
# 2^f = 1 + f * q(f) on [-0.5, 0.5]: exact at 0, so slow decays do not drift. Error 2e-9.
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5 = (
    np.float32(q)
    for q in (
        0.6931471824645996, 0.24022647738456726, 0.055503323674201965,
        0.009618435986340046, 0.0013398852897807956, 0.00015353597700595856,
    )
)  # fmt: skip
# log1p(e) = e * p(e) on [0, 1]. Error 5e-9.
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
def as_int(typing_context, x):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def _as_float(typing_context, i):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _clamp(typing_context, x):
    """x in [-125, 127], where 2^x is a normal number; NaN stays NaN."""

    def codegen(context, builder, signature, args):
        (x,) = args
        for comparison, limit in (("<", -125.0), (">", 127.0)):
            limit = ir.Constant(ir.FloatType(), limit)
            x = builder.select(builder.fcmp_ordered(comparison, x, limit), limit, x)
        return x

    return types.float32(types.float32), codegen


@inline
def exp2(x):
    x = _clamp(x)
    rounded = x + _ROUND
    f = x - (rounded - _ROUND)
    q = ((((_Q5 * f + _Q4) * f + _Q3) * f + _Q2) * f + _Q1) * f + _Q0
    return _as_float(as_int(q * f + _ONE) + (as_int(rounded) << _MANTISSA_BITS))


@inline
def softplus(x):
    e = exp2(-abs(x) * LOG2_E)
    p = ((((_P9 * e + _P8) * e + _P7) * e + _P6) * e + _P5) * e + _P4
    p = (((p * e + _P3) * e + _P2) * e + _P1) * e + _P0
    return (x + abs(x)) * np.float32(0.5) + e * p


@inline
def silu(x):
    return x / (_ONE + exp2(-x * LOG2_E))


def compile_kernel(function, contract=True):
    """Compile a kernel, cached on disk for later processes.

    Args:
        contract: a product and a sum may become one operation, rounded once.
    """
    fastmath = {"contract"} if contract else False
    options = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**options)(function)
