// Mamba's causal convolution with SiLU in both directions, channels last. x is read once.
//
// A thread computes four neighbouring channels of RUN tokens, and keeps their inputs in registers.
//
// The caller defines BF16 and FP16 (see elements.cuh), WIDTH of the convolution and RUN.

#include "activations.cuh"
#include "elements.cuh"

constexpr int REACH = WIDTH - 1;

__device__ __forceinline__ float gate(float x) { return BF16 || FP16 ? fast_silu_expf(x) : silu(x); }

// x: (batch, length, d_inner), its rows x_stride apart; weight: (WIDTH, d_inner);
// y: (2, batch, length, d_inner), forward then backward.
extern "C" __global__ void __launch_bounds__(256) bidirectional_conv(
    const Vec4* __restrict__ x, const float4* __restrict__ weight, const float4* __restrict__ bias,
    Vec4* __restrict__ y, int batch_size, int length, int d_inner, int x_stride) {
    const int groups = d_inner / 4, runs = (length + RUN - 1) / RUN;
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    const int group = index % groups, run = index / groups, start = run * RUN, b = blockIdx.y;
    if (run >= runs) return;
    x += (size_t)b * length * (x_stride / 4) + group;
    Vec4* forward = y + (size_t)b * length * groups + group;
    Vec4* backward = forward + (size_t)batch_size * length * groups;

    Vec4 rows[RUN + 2 * REACH];  // tokens start - REACH ... start + RUN - 1 + REACH
#pragma unroll
    for (int i = 0; i < RUN + 2 * REACH; i++) {
        const int t = start - REACH + i;
        rows[i] = t >= 0 && t < length ? x[(size_t)t * (x_stride / 4)] : Vec4{};
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
        narrow(forward + at, make_float4(gate(y_f.x), gate(y_f.y), gate(y_f.z), gate(y_f.w)));
        narrow(backward + at, make_float4(gate(y_b.x), gate(y_b.y), gate(y_b.z), gate(y_b.w)));
    }
}
