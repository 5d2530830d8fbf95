// Mamba's convolution with SiLU in both directions, and the product of its output u with x_proj.
//
// Apart, the second kernel reads again what the first one has just written: u, which is most of
// all bytes. Here a block keeps u of its 16 tokens in shared memory too, and the tensor cores take
// it from there.
//
// First a thread computes four neighbouring channels of RUN tokens, as in causal_conv. Its block
// writes whole rows of u at a time. Where each warp wrote pieces of rows on its own, the kernel took
// 1.6 times as long (benchmarks/README.md).
//
// Then the product is x_dbl^T = x_proj u^T, by mma.m16n8k16. The warps share the channels, 32 at a
// time, so that a block reads x_proj only once; at the end their sums are added. With g = lane / 4
// and c = lane % 4, lane (g, c) reads 8 channels of token g from 8 c on. Which channel is a row of
// the right operand, and which row of x_proj is a row of the left one, may be chosen freely:
//   * rows 2c, 2c + 1, 2c + 8 and 2c + 9 of product s (0 or 1) are the channels 8 c + 4 s ...
//     8 c + 4 s + 3, so that the 16 bytes that a lane reads are its operands of two products;
//   * rows g and g + 8 of tile m of x_proj are its rows 16 m + 4 (g / 2) + g % 2 and two after it,
//     so that a lane stores four neighbouring columns of x_dbl.
//
// The caller defines BF16 or FP16 (see elements.cuh), D_INNER (a multiple of 32), CHUNK (channels
// of u in shared memory; likewise), WIDTH of the convolution, COLUMNS of x_dbl (a multiple of 16),
// X_STRIDE (between rows of x), RUN (8 or 16), WARPS (per block) and MIN_BLOCKS (per processor).

#include "activations.cuh"
#include "elements.cuh"
#include "tensor_cores.cuh"

constexpr int REACH = WIDTH - 1;
constexpr int TOKENS = 16;                      // of a block
constexpr int M = COLUMNS / 16;                 // tiles of x_proj
constexpr int SUMS = 2 * 2 * M;                 // tiles of x_dbl: direction, 8 tokens, 16 columns
// Between rows of u in shared memory, in units of 16 bytes. Eight lanes read at once, four pieces
// each of two rows; with 64 bytes between the rows these lie in different halves of 128 bytes.
constexpr int PITCH = CHUNK / 8 + 4;
constexpr int PIECES = 2 * TOKENS * PITCH;
constexpr int FITTING = PIECES / (WARPS * 32);  // tiles of all warps' sums in the same memory
constexpr int ROUND = FITTING < SUMS ? FITTING : SUMS;

__device__ __forceinline__ Vec4 narrow_silu(float4 y) {
    Vec4 result;
    narrow(&result, make_float4(fast_silu(y.x), fast_silu(y.y), fast_silu(y.z), fast_silu(y.w)));
    return result;
}

// x: (batch, length, D_INNER), its rows X_STRIDE apart; taps: (WIDTH + 1, D_INNER), those of the
// convolution and its bias; weight: x_proj in the order of the registers, (D_INNER / 32, M,
// 2 products, 32 lanes); u: (2, batch, length, D_INNER), forward then backward; x_dbl: (2, batch,
// length, COLUMNS).
extern "C" __global__ void __launch_bounds__(32 * WARPS, MIN_BLOCKS) conv_projection(
    const Value* __restrict__ x, const float* __restrict__ taps,
    const uint4* __restrict__ weight, Value* __restrict__ u, Value* __restrict__ x_dbl,
    int batch_size, int length) {
    __shared__ uint4 shared[PIECES];
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
    const int start = blockIdx.x * TOKENS, b = blockIdx.y;
    const size_t row = (size_t)b * length + start;        // of x, u and x_dbl, forward
    const size_t backward = (size_t)batch_size * length;  // rows from there to the other direction

    float sums[2][2][M][4] = {};
#pragma unroll 1
    for (int chunk = 0; chunk < D_INNER; chunk += CHUNK) {
        if (chunk > 0) __syncthreads();

        // Convolution and SiLU, into global and shared memory.
        constexpr int GROUPS = CHUNK / 4;
#pragma unroll 1
        for (int item = threadIdx.x; item < GROUPS * (TOKENS / RUN); item += 32 * WARPS) {
            const int group = item % GROUPS, channel = chunk + 4 * group;
            const int skip = item / GROUPS * RUN, first = start + skip;
            if (channel >= D_INNER) continue;
            const Value* from = x + ((long long)row + skip - REACH) * X_STRIDE + channel;
            Vec4 rows[RUN + 2 * REACH];  // tokens first - REACH ... first + RUN - 1 + REACH
#pragma unroll
            for (int i = 0; i < RUN + 2 * REACH; i++) {
                const int t = first - REACH + i;
                rows[i] = t >= 0 && t < length ? *(const Vec4*)(from + i * X_STRIDE) : Vec4{};
            }
            float4 w[WIDTH];
#pragma unroll
            for (int k = 0; k < WIDTH; k++) w[k] = *(const float4*)(taps + k * D_INNER + channel);
            const float4 bias = *(const float4*)(taps + WIDTH * D_INNER + channel);
            Value* to = u + (row + skip) * D_INNER + channel;
            Vec4* own = (Vec4*)(shared + skip * PITCH) + group;
#pragma unroll
            for (int i = 0; i < RUN; i++) {
                float4 y_f = bias, y_b = bias;
#pragma unroll
                for (int k = 0; k < WIDTH; k++) {
                    y_f = fma(w[k], widen(rows[i + k]), y_f);
                    y_b = fma(w[k], widen(rows[i + 2 * REACH - k]), y_b);
                }
                const Vec4 u_f = narrow_silu(y_f), u_b = narrow_silu(y_b);
                if (first + i < length) {
                    *(Vec4*)(to + i * D_INNER) = u_f;
                    *(Vec4*)(to + backward * D_INNER + i * D_INNER) = u_b;
                }
                own[i * 2 * PITCH] = u_f;  // beyond the end it is not used
                own[(TOKENS + i) * 2 * PITCH] = u_b;
            }
        }
        __syncthreads();

        // The product with these channels of x_proj.
#pragma unroll 4
        for (int k = warp; k < CHUNK / 32; k += WARPS) {
            if (D_INNER % CHUNK && chunk + 32 * k >= D_INNER) break;
            uint4 v[2][2];
#pragma unroll
            for (int n = 0; n < 4; n++) v[n / 2][n % 2] = shared[(8 * n + g) * PITCH + 4 * k + c];
            const uint4* w = weight + (chunk / 32 + k) * M * 64 + lane;
#pragma unroll
            for (int m = 0; m < M; m++) {
                const uint4 w_0 = w[m * 64], w_1 = w[m * 64 + 32];
#pragma unroll
                for (int n = 0; n < 4; n++)
                    mma(sums[n / 2][n % 2][m], w_0, v[n / 2][n % 2].x, v[n / 2][n % 2].y);
#pragma unroll
                for (int n = 0; n < 4; n++)
                    mma(sums[n / 2][n % 2][m], w_1, v[n / 2][n % 2].z, v[n / 2][n % 2].w);
            }
        }
    }

    // Add the sums of the warps, as many tiles at a time as fit; each warp adds and stores some.
    float4* const all = (float4*)shared;
#pragma unroll
    for (int done = 0; done < SUMS; done += ROUND) {
        __syncthreads();
#pragma unroll
        for (int k = 0; k < ROUND && done + k < SUMS; k++) {
            const int n = done + k;
            const float(&s)[4] = sums[n / M / 2][n / M % 2][n % M];
            all[(warp * ROUND + k) * 32 + lane] = make_float4(s[0], s[1], s[2], s[3]);
        }
        __syncthreads();
        for (int k = warp; k < ROUND && done + k < SUMS; k += WARPS) {
            float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
            for (int other = 0; other < WARPS; other++) {
                const float4 s = all[(other * ROUND + k) * 32 + lane];
                total.x += s.x, total.y += s.y, total.z += s.z, total.w += s.w;
            }
            // A lane has two tokens each of two columns, and gets one token of four columns.
            Vec4 values;
            values.x = transpose(pack(total.x, total.y));
            values.y = transpose(pack(total.z, total.w));
            const int n = done + k, d = n / M / 2, token = n / M % 2 * 8 + g;
            Value* to = x_dbl + (row + d * backward + token) * COLUMNS + n % M * 16 + 4 * c;
            if (start + token < length) *(Vec4*)to = values;
        }
    }
}
