// Mamba's causal convolution with SiLU in both directions, channels last; x is read once.
//
// A thread owns four neighbouring channels of RUN tokens and holds their rows in registers.
//
// Defined by the caller: FLOAT32 or not (bfloat16), WIDTH of the convolution, RUN.

typedef unsigned int u32;

#if FLOAT32
typedef uint4 Four;
#else
typedef uint2 Four;
#endif

constexpr int REACH = WIDTH - 1;

__device__ __forceinline__ float4 widen(uint4 v) {
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                       __uint_as_float(v.w));
}
__device__ __forceinline__ float4 widen(uint2 v) {
    return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
                       __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
}
__device__ __forceinline__ void narrow(uint4* out, float4 v) {
    *out = make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z),
                      __float_as_uint(v.w));
}
__device__ __forceinline__ void narrow(uint2* out, float4 v) {
    uint2 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair.x) : "f"(v.y), "f"(v.x));
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair.y) : "f"(v.w), "f"(v.z));
    *out = pair;
}

__device__ __forceinline__ float silu(float x) {
    return FLOAT32 ? x / (1 + expf(-x)) : __fdividef(x, 1 + __expf(-x));
}

__device__ __forceinline__ float4 fma(float4 a, float4 b, float4 c) {
    return make_float4(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z),
                       fmaf(a.w, b.w, c.w));
}

// x: (batch, length, d_inner), rows x_stride apart; weight: (WIDTH, d_inner);
// y: (2, batch, length, d_inner).
extern "C" __global__ void __launch_bounds__(256) bidirectional_conv(
    const Four* __restrict__ x, const float4* __restrict__ weight, const float4* __restrict__ bias,
    Four* __restrict__ y, int batch_size, int length, int d_inner, int x_stride) {
    const int groups = d_inner / 4, runs = (length + RUN - 1) / RUN;
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    const int group = index % groups, run = index / groups, start = run * RUN, b = blockIdx.y;
    if (run >= runs) return;
    x += (size_t)b * length * (x_stride / 4) + group;
    Four* forward = y + (size_t)b * length * groups + group;
    Four* backward = forward + (size_t)batch_size * length * groups;

    Four rows[RUN + 2 * REACH];  // tokens start - REACH ... start + RUN - 1 + REACH
#pragma unroll
    for (int i = 0; i < RUN + 2 * REACH; i++) {
        const int t = start - REACH + i;
        rows[i] = t >= 0 && t < length ? x[(size_t)t * (x_stride / 4)] : Four{};
    }
    float4 w[WIDTH];
#pragma unroll
    for (int k = 0; k < WIDTH; k++) w[k] = weight[k * groups + group];
    const float4 offset = bias[group];
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        if (start + i >= length) break;
        float4 y_f = offset, y_b = offset;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            y_f = fma(w[k], widen(rows[i + k]), y_f);
            y_b = fma(w[k], widen(rows[i + 2 * REACH - k]), y_b);
        }
        const size_t at = (size_t)(start + i) * groups;
        narrow(forward + at, make_float4(silu(y_f.x), silu(y_f.y), silu(y_f.z), silu(y_f.w)));
        narrow(backward + at, make_float4(silu(y_b.x), silu(y_b.y), silu(y_b.z), silu(y_b.w)));
    }
}
