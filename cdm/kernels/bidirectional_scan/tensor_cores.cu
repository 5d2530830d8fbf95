// The bidirectional selective scan of Mamba-1 in bfloat16 or, with FP16, in half precision, for
// tensor cores (sm_80 and newer).
//
// For one token the recurrence is elementwise in (channel, state), except for two products:
// delta u B^T, which is added to the state, and h C, which gives y. Both are sums of outer
// products, so the tensor cores compute them. The other pipes are left with one multiplication and
// one exponential for the decay, and one multiplication that applies it.
//
// One warp owns 32 channels (16 with HALVES = 1) of one direction of one sample. It walks through
// the tokens, 8 at a time; these 8 are a tile. Its states are in registers, in the accumulator
// layout of mma.m16n8: with g = lane / 4 and c = lane % 4, lane (g, c) holds states 8j + 2c and
// 8j + 2c + 1 of the rows (channels) r = 0 ... R - 1. Row r of group g is channel
// 2 R (g / 2) + 2 r + g % 2 of the warp. The reason for this order: a lane loads 2 R channels of
// one token, and R transposed 8x8 matrices turn them into rows of channels, and back before the
// store, without shared memory.
//
// Two warps of one block walk through the two directions of a segment of tokens. The warp that
// comes to a tile first stores its part of y. The warp that comes second adds its own part and
// applies the gate. One barrier in the middle puts them in this order.
//
// Step sizes delta are kept in units of ln 2 (delta_log2), because the exponential is a power of 2.
//
// The caller defines FP16 (0 or 1), D_STATE, DT_RANK (a multiple of 16), HALVES (per warp, 16
// channels each), WARPS (per block and direction), MIN_BLOCKS (per processor) and POLY_MASK (which
// of 16 exponentials are polynomials, which spares the special function unit).

#define BF16 !FP16

#include "activations.cuh"
#include "elements.cuh"
#include "tensor_cores.cuh"

template <int N>
struct alignas(4 * N) Words {  // 2 N channels of a token
    u32 at[N];
};

constexpr int TILE = 8;                // tokens
constexpr int CHANNELS = 16 * HALVES;  // per warp
constexpr int R = 2 * HALVES;          // rows (channels) per lane
constexpr int J = D_STATE / 8;         // groups of 8 states
constexpr int K = DT_RANK / 16;        // steps of the product with dt_proj
constexpr int ROW_CHUNKS = (DT_RANK + 2 * D_STATE) / 8;  // 16-byte pieces of a row of x_dbl
constexpr int STAGES = 4;              // tiles in shared memory, being copied or used
constexpr float LN_2 = 0.693147181f;
constexpr float MAGIC = 12582912.0f;   // 1.5 * 2^23: adding it rounds to an integer

// 2 R channels of a token of z. With FP16 they are float: their rounding would be one of the largest
// in a step (benchmarks/README.md).
#if FP16
struct alignas(16) Gate {
    float2 at[R];
};
__device__ __forceinline__ float low(float2 pair) { return pair.x; }
__device__ __forceinline__ float high(float2 pair) { return pair.y; }
#else
typedef Words<R> Gate;
#endif

// 2^(delta_log2 a) for -126 <= delta_log2 a <= 0, by a cubic polynomial on [-1/2, 1/2]. It is exact
// at 0, so that slow decays keep their rate. The relative error is below 1.3e-4.
__device__ __forceinline__ float exp2_polynomial(float delta_log2, float a) {
    float shifted = fmaf(delta_log2, a, MAGIC);
    float f = fmaf(delta_log2, a, MAGIC - shifted);
    float p = fmaf(f, fmaf(f, fmaf(f, 0.0554913f, 0.2421200f), LN_2), 1.0f);
    return __int_as_float(__float_as_int(p) + (__float_as_int(shifted) << 23));
}

// d += a b, as `mma`, for 8 tokens.
__device__ __forceinline__ void mma_k8(float (&d)[4], const u32 (&a)[2], u32 b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32." OPERANDS ".f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
}

// Start to copy from global to shared memory; writes zeros if `there` is false.
template <typename T>
__device__ __forceinline__ void copy_async(T* shared, const T* global, bool there = true) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 ::"r"((u32)__cvta_generic_to_shared(shared)), "l"(global), "n"(sizeof(T)),
                 "r"(there ? (int)sizeof(T) : 0)
                 : "memory");
}

__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Wait for all groups of copies but the last LEFT.
template <int LEFT>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// This lane's fragment of an 8x8 matrix; lanes 0 to 7 name its rows by their `row`.
__device__ __forceinline__ u32 matrix(const uint4* row) {
    u32 pair;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(pair) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
    return pair;
}

__device__ __forceinline__ u32 transposed_matrix(const uint4* row) {
    u32 pair;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(pair) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
    return pair;
}

// The same column of another row.
template <typename T>
__device__ __forceinline__ T* row_at(T* first, u32 row, u32 row_bytes) {
    return (T*)((char*)first + (size_t)row * row_bytes);
}

struct Raw {  // one tile as it is in memory
    Words<R> u[32];                 // lane (g, c): token g, channels 2 R c ... 2 R (c + 1) - 1
    uint4 x_dbl[TILE][ROW_CHUNKS];  // rows of tokens
};

struct alignas(4 * R) StepSizes {  // delta of a lane's rows at one token, in units of ln 2
    float delta_log2[R];
};

struct Tile {  // the operands of the tensor cores, made from a Raw
    u32 u[R];                // rows are channels; columns are tokens 2c and 2c + 1
    u32 delta_u[HALVES][2];  // as u
    u32 B[J];                // rows are states; columns are tokens 2c and 2c + 1
    u32 C[J];                // token g, states 2c and 2c + 1
};

// With STATES_ONLY this is the first pass over a sequence in segments: it writes the last state of
// each segment (from a start of zero) to `ends`, and the sum of its delta_log2 to `sums`. Without,
// it writes y; the state that a segment starts from is computed from `ends` and `sums`.
template <bool STATES_ONLY>
__device__ __forceinline__ void scan(const u32* __restrict__ u_, const u32* __restrict__ x_dbl_,
                                     const u32* __restrict__ z_, const u32* __restrict__ dt_proj,
                                     const float* __restrict__ dt_bias,
                                     const float* __restrict__ A_, const float* __restrict__ D_,
                                     u32* y_, float* ends, float* sums, int batch_size,
                                     int length, int d_inner, int z_stride, int segment_tiles) {
    __shared__ Raw raw_tiles[2 * WARPS][STAGES];
    __shared__ StepSizes step_tiles[2 * WARPS][2][TILE * 8];
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
    const bool backward = warp >= WARPS;
    const int channel = (blockIdx.x * WARPS + warp % WARPS) * CHANNELS;
    const int segment = blockIdx.y, num_segments = gridDim.y, b = blockIdx.z;
    const bool channels_in = channel + 2 * R * c < d_inner;
    if (STATES_ONLY && segment == (backward ? 0 : num_segments - 1)) return;  // nothing follows it
    const int first_tile = segment * segment_tiles;
    const int num_tiles = min(segment_tiles, (length + TILE - 1) / TILE - first_tile);

    // The parameters of this lane's rows.
    float A[HALVES][J][4], h[HALVES][J][4], bias[R], D[R];
    float longest[HALVES][J][4];  // delta_log2 beyond which exp2_polynomial would leave its range
    u32 W[HALVES][K][4];
    int row_channel[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        const int ch = row_channel[r] = channel + 2 * R * (g / 2) + 2 * r + g % 2;
        const bool in = ch < d_inner;
        bias[r] = in ? dt_bias[ch] * LOG2_E : 0;
        D[r] = in ? D_[ch] : 0;
#pragma unroll
        for (int j = 0; j < J; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float a = in ? A_[ch * D_STATE + 8 * j + 2 * c + e] : 0;
                A[r / 2][j][r % 2 * 2 + e] = a;
                h[r / 2][j][r % 2 * 2 + e] = 0;
                // 2^-125 is still a normal number.
                longest[r / 2][j][r % 2 * 2 + e] = 125.0f / fmaxf(-a, 1e-30f);
            }
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                W[r / 2][k][r % 2 + 2 * half] =
                    in ? dt_proj[(ch * DT_RANK + 16 * k + 8 * half) / 2 + c] : 0;
    }
    const size_t sequence = (size_t)backward * batch_size + b;
    // The state that this segment starts from: the segments before it, one after the other. AHEAD of
    // them are loaded at a time, because a load takes longer than all that is computed from it.
    if (!STATES_ONLY && num_segments > 1) {
        constexpr int AHEAD = 4;
        const int before = backward ? num_segments - 1 - segment : segment;
        for (int first = 0; first < before; first += AHEAD) {
            float log2s[AHEAD][R];
            float2 states[AHEAD][R][J];
#pragma unroll
            for (int n = 0; n < AHEAD; n++) {
                const int s = min(first + n, before - 1);
                const size_t at = (sequence * num_segments + (backward ? num_segments - 1 - s : s)) *
                                  d_inner;
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const size_t row = at + min(row_channel[r], d_inner - 1);
                    log2s[n][r] = sums[row];
#pragma unroll
                    for (int j = 0; j < J; j++)
                        states[n][r][j] = *(const float2*)(ends + row * D_STATE + 8 * j + 2 * c);
                }
            }
#pragma unroll
            for (int n = 0; n < AHEAD; n++) {
                if (first + n >= before) break;
#pragma unroll
                for (int r = 0; r < R; r++)
#pragma unroll
                    for (int j = 0; j < J; j++) {
                        float* own = h[r / 2][j] + r % 2 * 2;
                        const float* a = A[r / 2][j] + r % 2 * 2;
                        const float2 end = states[n][r][j];
                        own[0] = fmaf(fast_exp2(log2s[n][r] * a[0]), own[0], end.x);
                        own[1] = fmaf(fast_exp2(log2s[n][r] * a[1]), own[1], end.y);
                    }
            }
        }
    }

    // Slot t of a tile is its t-th token in the order of the walk. A token or channel beyond the
    // end is read from the last one there is, and such a token has u = 0: it adds nothing to the
    // states and is not stored.
    const int slot = backward ? TILE - 1 - g : g;
    const int row_words = d_inner / (2 * R), column = min(channel / (2 * R) + c, row_words - 1);
    const int z_row_words = z_stride / (2 * R);
    const u32 row_bytes = row_words * sizeof(Words<R>), z_row_bytes = z_row_words * sizeof(Gate);
    const Words<R>* u = (const Words<R>*)u_ + sequence * length * row_words + column;
    const uint4* x_dbl = (const uint4*)x_dbl_ + sequence * length * ROW_CHUNKS;
    Words<R>* y = (Words<R>*)y_ + (size_t)b * length * row_words + column;
    const Gate* z = (const Gate*)z_ + (size_t)b * length * z_row_words + column;
    const int half = backward ? num_tiles / 2 : (num_tiles + 1) / 2;
    const int second_visits = STATES_ONLY ? num_tiles : half;  // the tile that they begin with
    float delta_log2_sum[R] = {};

    u32 b_mask[TILE], c_mask[TILE];  // keep those elements of an operand that belong to token t
#pragma unroll
    for (int t = 0; t < TILE; t++) {
        b_mask[t] = c != t / 2 ? 0 : t % 2 ? 0xffff0000u : 0xffffu;
        c_mask[t] = g != t ? 0 : ~0u;
        asm("" : "+r"(b_mask[t]), "+r"(c_mask[t]));  // stop the compiler from recomputing them
    }

    const int walk_start = (first_tile + (backward ? num_tiles - 1 : 0)) * TILE;
    auto first_token = [&](int k) {  // of the k-th tile of the walk
        return walk_start + k * (backward ? -TILE : TILE);
    };
    const u32 last_token = length - 1;
    // Start to copy the k-th tile into shared memory. What lies beyond the walk is not used.
    auto copy = [&](int k) {
        Raw& raw = raw_tiles[warp][k & (STAGES - 1)];
        const u32 start = first_token(k), token = start + slot;  // large before the first one, too
        copy_async(raw.u + lane, row_at(u, min(token, last_token), row_bytes), token <= last_token);
#pragma unroll
        for (int n = 0; n < TILE * ROW_CHUNKS; n += 32) {
            const int i = n + lane, row = i / ROW_CHUNKS, chunk = i % ROW_CHUNKS;
            const u32 place = min(start + (backward ? TILE - 1 - row : row), last_token);
            if (n + 32 <= TILE * ROW_CHUNKS || i < TILE * ROW_CHUNKS)
                copy_async(&raw.x_dbl[row][chunk],
                           row_at(x_dbl + chunk, place, ROW_CHUNKS * sizeof(uint4)));
        }
        commit_copies();
    };

    // The step sizes (in step_tiles) and the operands of the k-th tile are made in parts, between
    // the steps of the tile before it: the product with dt_proj, softplus of a half of the channels,
    // what is made of step sizes, and the rows of B and C.
    Tile tile, next;
    float delta_log2[HALVES][4];  // rows are channels; columns are tokens 2c and 2c + 1
    auto project = [&](int k) {
        const uint4* row = raw_tiles[warp][k & (STAGES - 1)].x_dbl[lane % TILE];
#pragma unroll
        for (int i = 0; i < HALVES; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) delta_log2[i][e] = 0;
#pragma unroll
        for (int n = 0; n < K; n++) {
            const u32 dt_0 = matrix(row + 2 * n), dt_1 = matrix(row + 2 * n + 1);
#pragma unroll
            for (int i = 0; i < HALVES; i++) {
                const u32(&w)[4] = W[i][n];
                mma(delta_log2[i], make_uint4(w[0], w[1], w[2], w[3]), dt_0, dt_1);
            }
        }
    };
    auto activate = [&](int i) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            delta_log2[i][e] = fast_softplus2(fmaf(delta_log2[i][e], LOG2_E, bias[2 * i + e / 2]));
    };
    auto store_steps = [&](int k) {
        auto& step_tile = step_tiles[warp][k & 1];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            StepSizes of_rows;
#pragma unroll
            for (int r = 0; r < R; r++)
                of_rows.delta_log2[r] = delta_log2[r / 2][r % 2 * 2 + e];
            step_tile[(2 * c + e) * 8 + g] = of_rows;
        }
        Words<R> own = raw_tiles[warp][k & (STAGES - 1)].u[lane];
#pragma unroll
        for (int r = 0; r < R; r++) {
            next.u[r] = transpose(own.at[r]);
            const float first = delta_log2[r / 2][r % 2 * 2];
            const float second = delta_log2[r / 2][r % 2 * 2 + 1];
            next.delta_u[r / 2][r % 2] =
                pack(first * (LN_2 * low(next.u[r])), second * (LN_2 * high(next.u[r])));
            if (STATES_ONLY && k < num_tiles) delta_log2_sum[r] += first + second;
        }
    };
    auto load_rows = [&](int k) {
        const uint4* row = raw_tiles[warp][k & (STAGES - 1)].x_dbl[lane % TILE];
#pragma unroll
        for (int j = 0; j < J; j++) {
            next.B[j] = transposed_matrix(row + 2 * K + j);
            if (!STATES_ONLY) next.C[j] = matrix(row + 2 * K + J + j);
        }
        __syncwarp();  // the step sizes of all lanes are there
    };

    float decays[HALVES][J][4];
    auto decay = [&](int k, int t) {  // of the t-th step of the k-th tile
        const StepSizes steps = step_tiles[warp][k & 1][t * 8 + g];
#pragma unroll
        for (int i = 0; i < HALVES; i++)
#pragma unroll
            for (int j = 0; j < J; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int r = 2 * i + e / 2;
                    const bool polynomial = (POLY_MASK >> (((i * J + j) * 4 + e) & 15)) & 1;
                    const float a = A[i][j][e], delta_log2 = steps.delta_log2[r];
                    decays[i][j][e] =
                        polynomial ? exp2_polynomial(fminf(delta_log2, longest[i][j][e]), a)
                                   : fast_exp2(delta_log2 * a);
                }
    };

    // y of a tile is stored during the next tile's first step; at the second visit with the gate and
    // with what the other direction has stored.
    float y_acc[HALVES][4] = {};
    Gate gate = {};
    Words<R> stored = {}, *out = y;
    bool out_there = false;
    auto finish = [&](bool second) {
        Words<R> values;
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float* pair = y_acc[r / 2] + r % 2 * 2;
            values.at[r] = transpose(pack(pair[0], pair[1]));
        }
        if (second) {
#pragma unroll
            for (int r = 0; r < R; r++) {
                const u32 own = values.at[r], other = stored.at[r];
                const auto z_r = gate.at[r];
                values.at[r] = pack((low(own) + low(other)) * fast_silu(low(z_r)),
                                    (high(own) + high(other)) * fast_silu(high(z_r)));
            }
        }
        if (out_there) *out = values;
    };

    // A tile is copied STAGES - 1 tiles ahead, and its operands are made one tile ahead. Only few
    // warps fit on a processor, so each warp has to cover latencies with its own work.
#pragma unroll
    for (int k = 0; k < STAGES - 1; k++) copy(k);
    wait_for_copies<STAGES - 2>();
    __syncwarp();
    project(0);
#pragma unroll
    for (int i = 0; i < HALVES; i++) activate(i);
    store_steps(0);
    load_rows(0);
    decay(0, 0);

    // The steps of the k-th tile: decay the states, add delta u B^T, and add h C to y.
    auto walk = [&](int k, bool second) {
        tile = next;
#pragma unroll
        for (int t = 0; t < TILE; t++) {
#pragma unroll
            for (int j = 0; j < J; j++) {
                const u32 b_t = tile.B[j] & b_mask[t];
#pragma unroll
                for (int i = 0; i < HALVES; i++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) h[i][j][e] *= decays[i][j][e];
                    mma_k8(h[i][j], tile.delta_u[i], b_t);
                }
            }
            decay(k + (t + 1) / TILE, (t + 1) % TILE);
            if (!STATES_ONLY && t == 0) {
                finish(second);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    y_acc[r / 2][r % 2 * 2] = D[r] * low(tile.u[r]);
                    y_acc[r / 2][r % 2 * 2 + 1] = D[r] * high(tile.u[r]);
                }
                const u32 token = first_token(k) + slot, place = min(token, last_token);
                out = row_at(y, place, row_bytes);
                out_there = token <= last_token && channels_in;
                if (second) {
                    gate = *row_at(z, place, z_row_bytes);
                    stored = *out;
                }
            }
#pragma unroll
            for (int j = 0; j < (STATES_ONLY ? 0 : J); j += 2) {
                const bool both = j + 1 < J;
                const u32 c0 = tile.C[j] & c_mask[t];
                const u32 c1 = both ? tile.C[both ? j + 1 : j] & c_mask[t] : 0;
#pragma unroll
                for (int i = 0; i < HALVES; i++) {
                    const float(&h0)[4] = h[i][j], (&h1)[4] = h[i][both ? j + 1 : j];
                    const uint4 states = make_uint4(pack(h0[0], h0[1]), pack(h0[2], h0[3]),
                                                    both ? pack(h1[0], h1[1]) : 0,
                                                    both ? pack(h1[2], h1[3]) : 0);
                    mma(y_acc[i], states, c0, c1);
                }
            }
            // The next tile. Which part follows which step was measured.
            if (t == 3) {
                copy(k + STAGES - 1);
                wait_for_copies<STAGES - 2>();
                __syncwarp();
                project(k + 1);
            }
            if (t == 4) activate(0);
            if (t == 5 && HALVES == 2) activate(1);
            if (t == 6) {
                store_steps(k + 1);
                load_rows(k + 1);
            }
        }
    };
    for (int k = 0; k < second_visits; k++) walk(k, false);
    if (!STATES_ONLY) {
        finish(false);
        out_there = false;
        __syncthreads();  // the other direction has stored its first half
        for (int k = second_visits; k < num_tiles; k++) walk(k, true);
        finish(true);
    }

    // The last state of the segment and the sum of its step sizes.
    if (STATES_ONLY) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            delta_log2_sum[r] += __shfl_xor_sync(~0u, delta_log2_sum[r], 1);
            delta_log2_sum[r] += __shfl_xor_sync(~0u, delta_log2_sum[r], 2);
            if (row_channel[r] >= d_inner) continue;
            size_t at = (sequence * num_segments + segment) * d_inner + row_channel[r];
            if (c == 0) sums[at] = delta_log2_sum[r];
#pragma unroll
            for (int j = 0; j < J; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    ends[at * D_STATE + 8 * j + 2 * c + e] = h[r / 2][j][r % 2 * 2 + e];
        }
    }
}

#define ARGUMENTS                                                                             \
    const u32 *u, const u32 *x_dbl, const u32 *z, const u32 *dt_proj, const float *dt_bias,   \
        const float *A, const float *D, u32 *y, float *ends, float *sums, int batch_size,     \
        int length, int d_inner, int z_stride, int segment_tiles
#define PASSED                                                                                \
    u, x_dbl, z, dt_proj, dt_bias, A, D, y, ends, sums, batch_size, length, d_inner, z_stride, \
        segment_tiles

extern "C" __global__ void __launch_bounds__(64 * WARPS, MIN_BLOCKS) segment_states(ARGUMENTS) {
    scan<true>(PASSED);
}

extern "C" __global__ void __launch_bounds__(64 * WARPS, MIN_BLOCKS) bidirectional_scan(ARGUMENTS) {
    scan<false>(PASSED);
}
