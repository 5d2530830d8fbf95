// Farthest point sampling. One block handles one cloud and keeps its points and their distances in
// registers.
//
// The caller defines THREADS (a multiple of 32, at most 1024) and POINTS (per thread).

typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int WARPS = THREADS / 32;
constexpr float NONE_YET = 1e10f;  // squared distance to the taken points while none is taken

__device__ __forceinline__ u64 max_of_warp(u64 key) {
#pragma unroll
    for (int offset = 16; offset; offset /= 2) {
        const u64 other = __shfl_xor_sync(~0u, key, offset);
        key = other > key ? other : key;
    }
    return key;
}

// Each taken point is the farthest from those taken before; the first is point 0. Floats >= 0 have
// the order of their bits. So the largest key (distance, ~index) belongs to the farthest point, and
// among equally far ones to that with the lowest index.
//   xyz: (batch, num_points, 3); taken: (batch, num_samples). Grid: (batch).
extern "C" __global__ void __launch_bounds__(THREADS) farthest_points(
    const float* __restrict__ xyz, long long* __restrict__ taken, int num_points,
    int num_samples) {
    __shared__ u64 best[2][WARPS];  // used in turns, so that one barrier per sample is enough
    xyz += 3 * (long)num_points * blockIdx.x;
    taken += (long)num_samples * blockIdx.x;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float x[POINTS], y[POINTS], z[POINTS], nearest[POINTS];
#pragma unroll
    for (int i = 0; i < POINTS; i++) {
        const int point = threadIdx.x + THREADS * i;
        const bool real = point < num_points;
        x[i] = real ? xyz[3 * point] : 0;
        y[i] = real ? xyz[3 * point + 1] : 0;
        z[i] = real ? xyz[3 * point + 2] : 0;
        nearest[i] = NONE_YET;
    }
    int last = 0;
    for (int sample = 0; sample < num_samples; sample++) {
        if (threadIdx.x == 0) taken[sample] = last;
        const float px = xyz[3 * last], py = xyz[3 * last + 1], pz = xyz[3 * last + 2];
        u64 key = 0;  // less than the key of any point
#pragma unroll
        for (int i = 0; i < POINTS; i++) {
            const u32 point = threadIdx.x + THREADS * i;
            const float dx = __fsub_rn(x[i], px), dy = __fsub_rn(y[i], py);
            const float dz = __fsub_rn(z[i], pz);
            const float d = __fadd_rn(__fadd_rn(__fmul_rn(dx, dx), __fmul_rn(dy, dy)),
                                      __fmul_rn(dz, dz));
            nearest[i] = d < nearest[i] ? d : nearest[i];
            const u64 own = (u64)__float_as_uint(nearest[i]) << 32 | ~point;
            if (point < num_points && own > key) key = own;
        }
        key = max_of_warp(key);
        if (lane == 0) best[sample % 2][warp] = key;
        __syncthreads();
        key = max_of_warp(lane < WARPS ? best[sample % 2][lane] : 0);
        last = (int)~(u32)key;
    }
}
