// Mamba's convolution with SiLU in both directions, and the product of its output u with x_proj.
//
// Apart, the second kernel reads again what the first one has just written: u, which is most of
// all bytes. Here a lane computes u directly in the registers from which the tensor cores take an
// operand, so that u is written once and never read.
//
// A warp owns 8 RUN neighbouring tokens of one sample and walks through the channels in steps of
// 32. With g = lane / 4 and c = lane % 4, lane (g, c) computes RUN neighbouring tokens from RUN g
// on, in the 8 channels from 8 c on, in both directions. The product is x_dbl^T = x_proj u^T, by
// mma.m16n8k16. Which channel is a row of its right operand, which token is a column, and which row
// of x_proj is a row of its left operand, may be chosen freely:
//   * column g of product i is token RUN g + i;
//   * rows 2c, 2c + 1, 2c + 8 and 2c + 9 of product s (0 or 1) of a step are the channels
//     8 c + 4 s ... 8 c + 4 s + 3, so that the 16 bytes that a lane stores are its two operands;
//   * rows g and g + 8 of tile m of x_proj are its rows 16 m + 4 (g / 2) + g % 2 and two after it,
//     so that a lane stores four neighbouring columns of x_dbl.
//
// The rows of x come into shared memory by asynchronous copies, some steps ahead. Each warp has its
// own part of shared memory, so warps do not wait for one another. Only with SPLIT > 1 they do, at
// the end: SPLIT warps share the tokens, each takes every SPLIT-th step, and their sums are added.
// This fills the device when there are few tokens.
//
// The caller defines BF16 or FP16 (see elements.cuh), D_INNER (a multiple of 32 SPLIT), WIDTH
// of the convolution, COLUMNS of x_dbl (a multiple of 16), X_STRIDE (between rows of x), RUN
// (1 to 5), SPLIT, WARPS (per block, a multiple of SPLIT), STAGES (steps in shared memory, being
// copied or used) and MIN_BLOCKS (per processor).

#include "activations.cuh"
#include "elements.cuh"
#include "tensor_cores.cuh"

constexpr int REACH = WIDTH - 1;
constexpr int TOKENS = 8 * RUN;                       // per warp
constexpr int WINDOW = RUN + 2 * REACH;               // rows of x that a lane needs
constexpr int ROWS = TOKENS + 2 * REACH;              // rows of x that a warp needs
constexpr int COPIES = (ROWS + 7) / 8;                // per lane and step, of 16 bytes each
constexpr int STAGE = COPIES * 32;                    // pieces of 16 bytes
constexpr int STEPS = D_INNER / 32 / SPLIT;           // of one warp
constexpr int M = COLUMNS / 16;                       // tiles of x_proj
constexpr int SUMS = 2 * RUN * M;                     // tiles of x_dbl of one warp

__device__ __forceinline__ float4 fma(float4 a, float4 b, float4 c) {
    return make_float4(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z),
                       fmaf(a.w, b.w, c.w));
}

__device__ __forceinline__ Vec4 narrow_silu(float4 y) {
    Vec4 result;
    narrow(&result, make_float4(fast_silu(y.x), fast_silu(y.y), fast_silu(y.z), fast_silu(y.w)));
    return result;
}

// x: (batch, length, D_INNER), its rows X_STRIDE apart; taps: (WIDTH + 1, D_INNER), those of the
// convolution and its bias;
// weight: x_proj in the order of the registers, (D_INNER / 32, M, 2 products, 32 lanes);
// u: (2, batch, length, D_INNER), forward then backward; x_dbl: (2, batch, length, COLUMNS).
extern "C" __global__ void __launch_bounds__(32 * WARPS, MIN_BLOCKS) conv_projection(
    const Value* __restrict__ x, const float* __restrict__ taps,
    const uint4* __restrict__ weight, Value* __restrict__ u, Value* __restrict__ x_dbl,
    int batch_size, int length) {
    constexpr int COPIED = WARPS * STAGES * STAGE, ADDED = SPLIT > 1 ? WARPS * SUMS * 32 : 0;
    __shared__ uint4 shared[COPIED > ADDED ? COPIED : ADDED];
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
    const int part = warp % SPLIT, b = blockIdx.y;
    const int start = (blockIdx.x * (WARPS / SPLIT) + warp / SPLIT) * TOKENS;
    const int first = start + RUN * g;  // token of this lane

    // What this lane copies: piece c of the rows g, g + 8, ... Tokens that do not exist are zeros.
    //
    // Piece p of row r lies at 4 r + p. Eight lanes read at once, four pieces each of two rows that
    // are RUN apart, and these have to lie in different halves of 128 bytes. They do if RUN is odd.
    // If it is even, odd and even rows change places where r / RUN is odd.
    uint4* const stages = shared + warp * STAGES * STAGE;
    uint4* const own = stages + ((4 * g + c) ^ (RUN % 2 ? 0 : g / RUN % 2 * 4));
    x += ((long long)b * length + start - REACH + g) * X_STRIDE + 32 * part + 8 * c;
    bool there[COPIES];
#pragma unroll
    for (int n = 0; n < COPIES; n++) {
        const int row = g + 8 * n, token = start - REACH + row;
        there[n] = row < ROWS && token >= 0 && token < length;
    }
    auto copy = [&](int stage) {
#pragma unroll
        for (int n = 0; n < COPIES; n++)
            copy_async(own + stage * STAGE + 32 * n, (const uint4*)(x + n * 8 * X_STRIDE),
                       there[n]);
        x += 32 * SPLIT;
    };
    // Where this lane finds the rows of its window.
    const uint4* const window = stages + 4 * RUN * g + c;
    const uint4 *const even = window + g % 2 * 4, *const odd = window + (g + 1) % 2 * 4;

    const size_t row = (size_t)b * length + first;           // of u and x_dbl, forward
    const size_t backward = (size_t)batch_size * length;     // rows from there to the other one
    u += row * D_INNER + 32 * part + 8 * c;
    taps += 32 * part + 8 * c;
    weight += part * M * 64 + lane;

    float sums[2][RUN][M][4] = {};
#pragma unroll
    for (int n = 0; n < STAGES - 1; n++) {
        if (n < STEPS) copy(n);
        commit_copies();
    }
    int stage = 0;
#pragma unroll 1
    for (int step = 0; step < STEPS; step++) {
        wait_for_copies<STAGES - 2>();
        __syncwarp();
        if (step + STAGES - 1 < STEPS) copy(stage == 0 ? STAGES - 1 : stage - 1);
        commit_copies();

        // Convolution and SiLU, four channels at a time.
        uint4 rows[WINDOW];
#pragma unroll
        for (int i = 0; i < WINDOW; i++)
            rows[i] = RUN % 2 ? window[stage * STAGE + 4 * i]
                              : ((i + i / RUN) % 2 ? odd : even)[stage * STAGE + i / 2 * 8];
        uint4 values[2][RUN];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float4 w[WIDTH];
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                w[k] = *(const float4*)(taps + k * D_INNER + 4 * half);
            const float4 y_0 = *(const float4*)(taps + WIDTH * D_INNER + 4 * half);
#pragma unroll
            for (int i = 0; i < RUN; i++) {
                float4 y_f = y_0, y_b = y_0;
#pragma unroll
                for (int k = 0; k < WIDTH; k++) {
                    const uint4 p = rows[i + k], q = rows[i + 2 * REACH - k];
                    y_f = fma(w[k], widen(half ? Vec4{p.z, p.w} : Vec4{p.x, p.y}), y_f);
                    y_b = fma(w[k], widen(half ? Vec4{q.z, q.w} : Vec4{q.x, q.y}), y_b);
                }
                const Vec4 f = narrow_silu(y_f), r = narrow_silu(y_b);
                if (half == 0) {
                    values[0][i].x = f.x, values[0][i].y = f.y;
                    values[1][i].x = r.x, values[1][i].y = r.y;
                } else {
                    values[0][i].z = f.x, values[0][i].w = f.y;
                    values[1][i].z = r.x, values[1][i].w = r.y;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < RUN; i++)
            if (first + i < length) {
                *(uint4*)(u + i * D_INNER) = values[0][i];
                *(uint4*)(u + backward * D_INNER + i * D_INNER) = values[1][i];
            }

        // The product with these 32 channels of x_proj.
#pragma unroll
        for (int m = 0; m < M; m++) {
            const uint4 w_0 = weight[m * 64], w_1 = weight[m * 64 + 32];
#pragma unroll
            for (int d = 0; d < 2; d++)
#pragma unroll
                for (int i = 0; i < RUN; i++) {
                    const uint4 v = values[d][i];
                    mma(sums[d][i][m], w_0, v.x, v.y);
                    mma(sums[d][i][m], w_1, v.z, v.w);
                }
        }
        u += 32 * SPLIT, taps += 32 * SPLIT, weight += SPLIT * M * 64;
        stage = stage == STAGES - 1 ? 0 : stage + 1;
    }

    // Store a tile of x_dbl: a lane has two tokens each of two columns, and gets one token of four.
    auto store = [&](int d, int i, int m, float4 sum) {
        Vec4 values;
        values.x = transpose(pack(sum.x, sum.y));
        values.y = transpose(pack(sum.z, sum.w));
        if (first + i < length)
            *(Vec4*)(x_dbl + (row + d * backward + i) * COLUMNS + 16 * m + 4 * c) = values;
    };
    // With SPLIT, add the sums of the warps first; each adds and stores its share of them.
    float4* const all = (float4*)shared;
    if (SPLIT > 1) {
        wait_for_copies<0>();
        __syncthreads();
    }
#pragma unroll
    for (int n = 0; n < SUMS; n++) {
        const int d = n / M / RUN, i = n / M % RUN, m = n % M;
        const float(&s)[4] = sums[d][i][m];
        const float4 sum = make_float4(s[0], s[1], s[2], s[3]);
        if (SPLIT == 1)
            store(d, i, m, sum);
        else
            all[(warp * SUMS + n) * 32 + lane] = sum;
    }
    if (SPLIT > 1) {
        __syncthreads();
        for (int n = part; n < SUMS; n += SPLIT) {
            float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
            for (int w = 0; w < SPLIT; w++) {
                const float4 s = all[((warp - part + w) * SUMS + n) * 32 + lane];
                total.x += s.x, total.y += s.y, total.z += s.z, total.w += s.w;
            }
            store(n / M / RUN, n / M % RUN, n % M, total);
        }
    }
}
