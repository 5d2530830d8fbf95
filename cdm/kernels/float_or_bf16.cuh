// Four values in one load: float4 or, unless FLOAT32, four bfloat16.

#if FLOAT32
typedef float4 Half4;
#else
typedef uint2 Half4;
#endif

__device__ __forceinline__ float4 widen(float4 v) { return v; }
__device__ __forceinline__ float4 widen(uint2 v) {
    return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
                       __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
}
__device__ __forceinline__ void narrow(float4* out, float4 v) { *out = v; }
__device__ __forceinline__ void narrow(uint2* out, float4 v) {
    uint2 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair.x) : "f"(v.y), "f"(v.x));
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair.y) : "f"(v.w), "f"(v.z));
    *out = pair;
}
