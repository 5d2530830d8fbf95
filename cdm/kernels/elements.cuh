// What tensors hold: float, bfloat16 with BF16, or half precision with FP16. All arithmetic is in
// float: `widen` what is loaded, and `narrow` what is stored. A Value is one element, a Vec4 is four
// in one load. Half precision becomes infinite beyond 65504, so that an overflow is seen in the map.
//
// The file that includes this defines BF16 or FP16 as 1. What it leaves out is 0.

#ifndef BF16
#define BF16 0
#endif
#ifndef FP16
#define FP16 0
#endif

// Two 16-bit elements in one 32-bit word, the first one in the low half. `pack` rounds to the
// nearest, ties to even.
#if FP16
__device__ __forceinline__ float from_half(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ __forceinline__ float low(unsigned int pair) { return from_half(pair); }
__device__ __forceinline__ float high(unsigned int pair) { return from_half(pair >> 16); }
__device__ __forceinline__ unsigned int pack(float low, float high) {
    unsigned int pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
#else
__device__ __forceinline__ float low(unsigned int pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(unsigned int pair) {
    return __uint_as_float(pair & 0xffff0000u);
}
__device__ __forceinline__ unsigned int pack(float low, float high) {
    unsigned int pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
#endif

__device__ __forceinline__ float4 fma(float4 a, float4 b, float4 c) {
    return make_float4(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z),
                       fmaf(a.w, b.w, c.w));
}

__device__ __forceinline__ float4 widen(float4 v) { return v; }
__device__ __forceinline__ void narrow(float4* out, float4 v) { *out = v; }

#if BF16 || FP16
typedef unsigned short Value;
typedef uint2 Vec4;

#if FP16
__device__ __forceinline__ float widen(Value x) { return from_half(x); }
__device__ __forceinline__ Value narrow(float x) { return pack(x, 0); }
#else
__device__ __forceinline__ float widen(Value x) { return __uint_as_float((unsigned int)x << 16); }
// Rounded to the nearest, ties to even, like `pack`; but NaN may become infinity.
__device__ __forceinline__ Value narrow(float x) {
    const unsigned int bits = __float_as_uint(x);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#endif
__device__ __forceinline__ float4 widen(Vec4 v) {
    return make_float4(low(v.x), high(v.x), low(v.y), high(v.y));
}
__device__ __forceinline__ void narrow(Vec4* out, float4 v) {
    Vec4 pairs;
    pairs.x = pack(v.x, v.y);
    pairs.y = pack(v.z, v.w);
    *out = pairs;
}
#else
typedef float Value;
typedef float4 Vec4;

__device__ __forceinline__ float widen(Value x) { return x; }
__device__ __forceinline__ Value narrow(float x) { return x; }
#endif
