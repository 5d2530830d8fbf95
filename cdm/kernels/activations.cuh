// Softplus and SiLU, exact and fast.

constexpr float LOG2_E = 1.44269504f;

// As torch: beyond 20 softplus(x) - x is below float32's resolution.
__device__ __forceinline__ float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

__device__ __forceinline__ float silu(float x) { return x / (1 + expf(-x)); }

// Fast forms: exponential and logarithm of the special function unit, and approximate division.
// A relative error of about 2^-22 does not show once the result is rounded to bfloat16.

__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float fast_log2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Softplus in units of ln 2: log2(1 + 2^x), for x = log2(e) * argument. Absolute error about 1e-7.
__device__ __forceinline__ float fast_softplus2(float x) {
    return fmaxf(x, 0.0f) + fast_log2(1.0f + fast_exp2(-fabsf(x)));
}

__device__ __forceinline__ float fast_silu(float x) {
    return __fdividef(x, 1.0f + fast_exp2(-LOG2_E * x));
}

// The same with CUDA's __expf, which keeps denormal numbers and takes a few more instructions.
__device__ __forceinline__ float fast_silu_expf(float x) { return __fdividef(x, 1 + __expf(-x)); }
