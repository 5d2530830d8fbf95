// What tensors hold: float, or with BF16 bfloat16, which is computed with as float.

#if BF16
typedef unsigned short Value;
__device__ inline float widen(Value x) { return __uint_as_float((unsigned int)x << 16); }
__device__ inline Value narrow(float x) {  // to the nearest, ties to even; NaN is not kept
    const unsigned int bits = __float_as_uint(x);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#else
typedef float Value;
__device__ inline float widen(Value x) { return x; }
__device__ inline Value narrow(float x) { return x; }
#endif
