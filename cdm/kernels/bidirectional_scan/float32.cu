// The bidirectional selective scan of Mamba-1 in float32.
//
// One thread owns one channel of one direction of one sample, and keeps its states in registers. It
// walks through the tokens, a tile at a time; the rows of B and C of the tile are in shared memory.
// Both directions belong to one block. The thread that comes to a tile first stores its part of y.
// The thread that comes second adds its own part and applies the gate. The number of tiles is even,
// so that the two directions never are in the same tile.
//
// The caller defines D_STATE, B_COLUMN (the column of x_dbl at which B starts; C follows), ROW
// (columns of x_dbl) and CHANNELS (threads per direction).

#include "activations.cuh"

constexpr int TILE = 16;  // tokens

extern "C" __global__ void __launch_bounds__(2 * CHANNELS) bidirectional_scan(
    const float* __restrict__ u, const float* __restrict__ delta, const float* __restrict__ x_dbl,
    const float* __restrict__ z, const float* __restrict__ dt_bias, const float* __restrict__ A,
    const float* __restrict__ D, float* y, int batch_size, int length, int d_inner, int z_stride) {
    __shared__ float4 rows[2][TILE][2 * D_STATE / 4];  // B and C of the tile, per direction
    const int thread = threadIdx.x % CHANNELS, direction = threadIdx.x / CHANNELS;
    const int channel = blockIdx.x * CHANNELS + thread, b = blockIdx.y;
    const bool channel_in = channel < d_inner;
    const size_t base = ((size_t)direction * batch_size + b) * length;

    float a[D_STATE], h[D_STATE];
#pragma unroll
    for (int n = 0; n < D_STATE; n++) {
        a[n] = channel_in ? A[channel * D_STATE + n] * 1.44269504f : 0;
        h[n] = 0;
    }
    const float bias = channel_in ? dt_bias[channel] : 0, skip = channel_in ? D[channel] : 0;

    const int num_tiles = ((length + TILE - 1) / TILE + 1) / 2 * 2;
    for (int k = 0; k < num_tiles; k++) {
        const int start = (direction ? num_tiles - 1 - k : k) * TILE;
        for (int i = thread; i < TILE * 2 * D_STATE; i += CHANNELS) {
            const int t = i / (2 * D_STATE), n = i % (2 * D_STATE);
            ((float*)rows[direction][t])[n] =
                start + t < length ? x_dbl[(base + start + t) * ROW + B_COLUMN + n] : 0;
        }
        __syncthreads();
#pragma unroll 4
        for (int i = 0; i < TILE; i++) {
            const int t = direction ? TILE - 1 - i : i, token = start + t;
            if (!channel_in || token >= length) continue;
            const size_t at = (base + token) * d_inner + channel;
            const float u_t = u[at], delta_t = softplus(delta[at] + bias);
            const float delta_u = delta_t * u_t;
            float y_t = skip * u_t;
#pragma unroll
            for (int n = 0; n < D_STATE; n += 4) {
                const float4 B = rows[direction][t][n / 4];
                const float4 C = rows[direction][t][(D_STATE + n) / 4];
                h[n] = fmaf(exp2f(delta_t * a[n]), h[n], delta_u * B.x);
                h[n + 1] = fmaf(exp2f(delta_t * a[n + 1]), h[n + 1], delta_u * B.y);
                h[n + 2] = fmaf(exp2f(delta_t * a[n + 2]), h[n + 2], delta_u * B.z);
                h[n + 3] = fmaf(exp2f(delta_t * a[n + 3]), h[n + 3], delta_u * B.w);
                y_t += h[n] * C.x + h[n + 1] * C.y + h[n + 2] * C.z + h[n + 3] * C.w;
            }
            const size_t place = (size_t)b * length + token;
            if (k >= num_tiles / 2) {
                const float gate = z[place * z_stride + channel];
                y_t = (y_t + y[place * d_inner + channel]) * silu(gate);
            }
            y[place * d_inner + channel] = y_t;
        }
        __syncthreads();
    }
}
