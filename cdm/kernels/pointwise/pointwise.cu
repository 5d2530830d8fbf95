// The steps between the matrix products of PointMamba, which treat every point on its own; one pass
// over memory each. The residual stream is float32. The inputs of blocks are Vec4: four float,
// bfloat16 or half precision.
//
// The caller defines BF16 and FP16 (see elements.cuh), D_MODEL (a multiple of 4) and CONTACT_DIM.

#include "elements.cuh"

// Four numbers of what makes up the residual stream: the embedding and the outputs of out_proj. In
// half precision they stay float: a third of a step's error would come from rounding them.
#if FP16
typedef float4 Term4;
#else
typedef Vec4 Term4;
#endif

__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1 + erff(0.70710678f * x)); }

// out = GELU(x_t weight + static_proj + time_proj): the first linear layer. The caller has computed
// the parts of its other columns: static_proj does not change with the timestep, time_proj depends
// on the timestep alone.
//   x_t: (rows, CONTACT_DIM); weight: (CONTACT_DIM, hidden); static_proj: (rows, hidden);
//   time_proj: (batch, hidden); out: (rows, hidden).
extern "C" __global__ void __launch_bounds__(256) embed(
    const float* __restrict__ x_t, const float4* __restrict__ weight,
    const float4* __restrict__ static_proj, const float4* __restrict__ time_proj,
    Term4* __restrict__ out, long num_rows, int num_points, int hidden) {
    const int groups = hidden / 4;
    const long index = (long)blockIdx.x * blockDim.x + threadIdx.x, row = index / groups;
    const int group = index % groups;
    if (row >= num_rows) return;
    float4 v = static_proj[index], s = time_proj[row / num_points * groups + group];
    v.x += s.x, v.y += s.y, v.z += s.z, v.w += s.w;
#pragma unroll
    for (int j = 0; j < CONTACT_DIM; j++) {
        const float x = x_t[row * CONTACT_DIM + j];
        const float4 w = weight[j * groups + group];
        v.x = fmaf(x, w.x, v.x), v.y = fmaf(x, w.y, v.y);
        v.z = fmaf(x, w.z, v.z), v.w = fmaf(x, w.w, v.w);
    }
    narrow(out + index, make_float4(gelu(v.x), gelu(v.y), gelu(v.z), gelu(v.w)));
}

// --- Kernels that give each row of D_MODEL numbers a warp ----------------------------------------

constexpr int GROUPS = D_MODEL / 4, VECTORS = (GROUPS + 31) / 32;
constexpr float EPS = 1e-5f;

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
    for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
    return x;
}

// LayerNorm of a row. A lane holds the groups of four numbers lane, lane + 32, ...
__device__ __forceinline__ void layer_norm(float4 (&v)[VECTORS], const float4* weight,
                                           const float4* bias, int lane) {
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + 32 * i < GROUPS) sum += (v[i].x + v[i].y) + (v[i].z + v[i].w);
    const float mean = sum_of_warp(sum) / D_MODEL;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + 32 * i < GROUPS) {
            v[i].x -= mean, v[i].y -= mean, v[i].z -= mean, v[i].w -= mean;
            squares += (v[i].x * v[i].x + v[i].y * v[i].y) + (v[i].z * v[i].z + v[i].w * v[i].w);
        }
    const float scale = rsqrtf(sum_of_warp(squares) / D_MODEL + EPS);
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + 32 * i < GROUPS) {
            const float4 w = weight[lane + 32 * i], b = bias[lane + 32 * i];
            v[i].x = fmaf(v[i].x * scale, w.x, b.x), v[i].y = fmaf(v[i].y * scale, w.y, b.y);
            v[i].z = fmaf(v[i].z * scale, w.z, b.z), v[i].w = fmaf(v[i].w * scale, w.w, b.w);
        }
}

// A norm goes into in_proj. In half precision it is written as [high, low, high], where high + low is
// the norm to 22 bits. in_proj's weight is [high, high, low]: so one product multiplies both as pairs.
__device__ __forceinline__ void write_norm(Vec4* out, long row, int group, float4 v) {
#if FP16
    Vec4* const at = out + row * 3 * GROUPS + group;
    narrow(at, v);
    const float4 high = widen(*at);
    narrow(at + GROUPS, make_float4(v.x - high.x, v.y - high.y, v.z - high.z, v.w - high.w));
    at[2 * GROUPS] = *at;
#else
    narrow(out + row * GROUPS + group, v);
#endif
}

// The stream of a row and its norm. FIRST: stream = LayerNorm_e(y), else stream += y;
// out = LayerNorm(stream).
template <bool FIRST>
__device__ __forceinline__ void stream_and_norm(
    const Term4* __restrict__ y, const float4* weight_e, const float4* bias_e,
    const float4* __restrict__ weight, const float4* __restrict__ bias,
    float4* __restrict__ stream, Vec4* __restrict__ out, long num_rows) {
    const long row = ((long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (row >= num_rows) return;
    float4 v[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + 32 * i < GROUPS) v[i] = widen(y[row * GROUPS + lane + 32 * i]);
    if (FIRST) layer_norm(v, weight_e, bias_e, lane);
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + 32 * i < GROUPS) {
            float4* const at = stream + row * GROUPS + lane + 32 * i;
            if (!FIRST) v[i].x += at->x, v[i].y += at->y, v[i].z += at->z, v[i].w += at->w;
            *at = v[i];
        }
    layer_norm(v, weight, bias, lane);
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + 32 * i < GROUPS) write_norm(out, row, lane + 32 * i, v[i]);
}

// The norms of the embedding and of the first block.
extern "C" __global__ void __launch_bounds__(256) embedding_norm(
    const Term4* __restrict__ y, const float4* __restrict__ weight_e,
    const float4* __restrict__ bias_e, const float4* __restrict__ weight,
    const float4* __restrict__ bias, float4* __restrict__ stream, Vec4* __restrict__ out,
    long num_rows) {
    stream_and_norm<true>(y, weight_e, bias_e, weight, bias, stream, out, num_rows);
}

// The residual of a block and the norm of the next one.
extern "C" __global__ void __launch_bounds__(256) residual_norm(
    const Term4* __restrict__ y, const float4* __restrict__ weight,
    const float4* __restrict__ bias, float4* __restrict__ stream, Vec4* __restrict__ out,
    long num_rows) {
    stream_and_norm<false>(y, nullptr, nullptr, weight, bias, stream, out, num_rows);
}

// out = (stream + y) weight^T + bias: the residual of the last block, and the layers after it,
// which the caller has folded into one.
// weight: (CONTACT_DIM, D_MODEL); out: (rows, CONTACT_DIM) float32.
extern "C" __global__ void __launch_bounds__(256) residual_head(
    const Term4* __restrict__ y, const float4* __restrict__ stream,
    const float4* __restrict__ weight, const float* __restrict__ bias, float* __restrict__ out,
    long num_rows) {
    const long row = ((long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (row >= num_rows) return;
    float sums[CONTACT_DIM] = {};
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + 32 * i < GROUPS) {
            const long at = row * GROUPS + lane + 32 * i;
            const float4 d = widen(y[at]), s = stream[at];
            const float4 v = make_float4(s.x + d.x, s.y + d.y, s.z + d.z, s.w + d.w);
#pragma unroll
            for (int j = 0; j < CONTACT_DIM; j++) {
                const float4 w = weight[j * GROUPS + lane + 32 * i];
                sums[j] += (v.x * w.x + v.y * w.y) + (v.z * w.z + v.w * w.w);
            }
        }
    float own = 0;
#pragma unroll
    for (int j = 0; j < CONTACT_DIM; j++) {
        const float sum = sum_of_warp(sums[j]);
        if (lane == j) own = sum;
    }
    if (lane < CONTACT_DIM) out[row * CONTACT_DIM + lane] = own + bias[lane];
}
