// Vector attention without its two matrix products: `differences` makes their input and
// `weighted_sum` uses their output. `grouped_max` is the largest feature of a group.
//
// A thread handles four channels of one point and all neighbours of that point. Sums are float32.
// q, k, v, x and the inputs of matrix products are Vec4: four float, bfloat16 or half precision.
//
// The caller defines BF16 and FP16 (see elements.cuh), CHANNELS (a multiple of 32) and K
// (neighbours).

#include "elements.cuh"

constexpr int GROUPS = CHANNELS / 4, SHARED_GROUPS = GROUPS / 8;  // groups of four channels

// A linear layer from three numbers to four of its channels.
struct Position {
    float4 x, y, z, bias;

    __device__ __forceinline__ Position(const float* weight, int group) {
        const float* w = weight + 12 * group;  // (CHANNELS, 3)
        x = make_float4(w[0], w[3], w[6], w[9]);
        y = make_float4(w[1], w[4], w[7], w[10]);
        z = make_float4(w[2], w[5], w[8], w[11]);
        bias = make_float4(0, 0, 0, 0);
    }

    __device__ __forceinline__ Position(const float* weight, const float* b, int group)
        : Position(weight, group) {
        bias = make_float4(b[4 * group], b[4 * group + 1], b[4 * group + 2], b[4 * group + 3]);
    }

    __device__ __forceinline__ float4 operator()(const float* h) const {
        const float a = h[0], b = h[1], c = h[2];
        return make_float4(fmaf(a, x.x, fmaf(b, y.x, fmaf(c, z.x, bias.x))),
                           fmaf(a, x.y, fmaf(b, y.y, fmaf(c, z.y, bias.y))),
                           fmaf(a, x.z, fmaf(b, y.z, fmaf(c, z.z, bias.z))),
                           fmaf(a, x.w, fmaf(b, y.w, fmaf(c, z.w, bias.w))));
    }
};

__device__ __forceinline__ float relu(float x) { return x > 0 ? x : 0; }

// out = ReLU(scale (k_j - q + p_j) + shift), p = position(positions).
//   q, k: (points, CHANNELS); neighbour_idx: (points, K); positions: (points, K, 3);
//   weight: (CHANNELS, 3); bias, scale, shift: (CHANNELS); out: (points, K, CHANNELS).
extern "C" __global__ void __launch_bounds__(256) differences(
    const Vec4* __restrict__ q, const Vec4* __restrict__ k,
    const long long* __restrict__ neighbour_idx, const float* __restrict__ positions,
    const float* __restrict__ weight,
    const float* __restrict__ bias, const float* __restrict__ scale,
    const float* __restrict__ shift, Vec4* __restrict__ out, long num_points) {
    const long index = (long)blockIdx.x * blockDim.x + threadIdx.x, point = index / GROUPS;
    const int group = index % GROUPS;
    if (point >= num_points) return;
    const Position position(weight, bias, group);
    const float4 center = widen(q[index]);
    const float *a = scale + 4 * group, *b = shift + 4 * group;
    const float4 s = make_float4(a[0], a[1], a[2], a[3]), t = make_float4(b[0], b[1], b[2], b[3]);
#pragma unroll
    for (int j = 0; j < K; j++) {
        const long at = point * K + j;
        const float4 p = position(positions + 3 * at);
        float4 d = widen(k[neighbour_idx[at] * GROUPS + group]);
        d.x += p.x - center.x, d.y += p.y - center.y, d.z += p.z - center.z, d.w += p.w - center.w;
        d.x = relu(fmaf(s.x, d.x, t.x)), d.y = relu(fmaf(s.y, d.y, t.y));
        d.z = relu(fmaf(s.z, d.z, t.z)), d.w = relu(fmaf(s.w, d.w, t.w));
        narrow(out + at * GROUPS + group, d);
    }
}

// out = sum_j softmax_j(logits) (v_j + p_j); eight channels share a logit.
//   v: (points, CHANNELS); logits: (points, K, CHANNELS / 8); out: (points, CHANNELS); the other
//   arguments as those of `differences`.
extern "C" __global__ void __launch_bounds__(256) weighted_sum(
    const Vec4* __restrict__ v, const Vec4* __restrict__ logits,
    const long long* __restrict__ neighbour_idx, const float* __restrict__ positions,
    const float* __restrict__ weight, const float* __restrict__ bias, Vec4* __restrict__ out,
    long num_points) {
    const long index = (long)blockIdx.x * blockDim.x + threadIdx.x, point = index / GROUPS;
    const int group = index % GROUPS;
    if (point >= num_points) return;
    const Position position(weight, bias, group);
    float4 w[K], top, sum = make_float4(0, 0, 0, 0), total = sum;
#pragma unroll
    for (int j = 0; j < K; j++) {
        w[j] = widen(logits[(point * K + j) * SHARED_GROUPS + group % SHARED_GROUPS]);
        top = j == 0 ? w[j] : make_float4(fmaxf(top.x, w[j].x), fmaxf(top.y, w[j].y),
                                          fmaxf(top.z, w[j].z), fmaxf(top.w, w[j].w));
    }
#pragma unroll
    for (int j = 0; j < K; j++) {
        const long at = point * K + j;
        const float4 p = position(positions + 3 * at);
        const float4 x = widen(v[neighbour_idx[at] * GROUPS + group]);
        const float4 e = make_float4(expf(w[j].x - top.x), expf(w[j].y - top.y),
                                     expf(w[j].z - top.z), expf(w[j].w - top.w));
        sum.x += e.x, sum.y += e.y, sum.z += e.z, sum.w += e.w;
        total.x = fmaf(e.x, x.x + p.x, total.x), total.y = fmaf(e.y, x.y + p.y, total.y);
        total.z = fmaf(e.z, x.z + p.z, total.z), total.w = fmaf(e.w, x.w + p.w, total.w);
    }
    narrow(out + index, make_float4(total.x / sum.x, total.y / sum.y, total.z / sum.z,
                                    total.w / sum.w));
}

// out = max_j (x_j + weight offset_j).
//   x: (finer points, CHANNELS); neighbour_idx: (points, K); offsets: (points, K, 3);
//   weight: (CHANNELS, 3); out: (points, CHANNELS).
extern "C" __global__ void __launch_bounds__(256) grouped_max(
    const Vec4* __restrict__ x, const long long* __restrict__ neighbour_idx,
    const float* __restrict__ offsets, const float* __restrict__ weight, Vec4* __restrict__ out,
    long num_points) {
    const long index = (long)blockIdx.x * blockDim.x + threadIdx.x, point = index / GROUPS;
    const int group = index % GROUPS;
    if (point >= num_points) return;
    const Position position(weight, group);
    float4 top;
#pragma unroll
    for (int j = 0; j < K; j++) {
        const long at = point * K + j;
        const float4 p = position(offsets + 3 * at);
        float4 v = widen(x[neighbour_idx[at] * GROUPS + group]);
        v.x += p.x, v.y += p.y, v.z += p.z, v.w += p.w;
        top = j == 0 ? v : make_float4(fmaxf(top.x, v.x), fmaxf(top.y, v.y), fmaxf(top.z, v.z),
                                       fmaxf(top.w, v.w));
    }
    narrow(out + index, top);
}
