// The selective scan up to the gate, and its gradient, for training:
//
//   delta_t = softplus(raw_t + bias),   h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t,
//   y_t = <h_t, C_t> + D u_t
//
// Four lanes share a channel, each with four of its 16 states in registers; a block walks 64
// channels of one cloud through the whole sequence, TILE steps at a time. The forward pass leaves
// the state at the start of every tile behind. The backward pass takes the tiles from the last to
// the first, steps through each again to have its states, and then back:
//
//   g_t = dy_t C_t + exp(delta_{t+1} A) g_{t+1}                            (dL/dh_t)
//   dC_t = dy_t h_t     dB_t = delta_t u_t g_t        (both summed over channels)
//   du_t = delta_t <g_t, B_t> + D dy_t
//   draw_t = (u_t <g_t, B_t> + <g_t, A exp(delta_t A) h_{t-1}>) (1 - exp(-delta_t))
//   dA = sum over t of delta_t g_t exp(delta_t A) h_{t-1},   dD = sum of u_t dy_t
//
// (softplus has the derivative 1 - exp(-delta).) The gradient of bias is the sum of draw.
//
// All is float32. Sums over channels go lane, warp, block in a fixed order, and over blocks on the
// caller's side: the same input gives the same bits.
//
// The caller defines TILE, at most 8.

constexpr int STATES = 16, LANES = 4, OWN = STATES / LANES;
constexpr int CHANNELS = 64, THREADS = CHANNELS * LANES, WARPS = THREADS / 32;
constexpr float LOG2E = 1.4426950408889634f;
constexpr unsigned ALL = 0xffffffffu;

struct Place {
    int channel, lane, length, d_inner, tiles;
    size_t batch;
    bool reverse;

    __device__ Place(int length, int d_inner, int reverse)
        : channel(blockIdx.x * CHANNELS + threadIdx.x / LANES), lane(threadIdx.x % LANES),
          length(length), d_inner(d_inner), tiles((length + TILE - 1) / TILE), batch(blockIdx.y),
          reverse(reverse != 0) {}

    // Row of step t in (batch, length, ...); only for t < length.
    __device__ size_t row(int t) const {
        return batch * length + (reverse ? length - 1 - t : t);
    }
    __device__ size_t start(int tile) const {
        return ((batch * tiles + tile) * d_inner + channel) * STATES + lane * OWN;
    }
};

// As torch's softplus: beyond 20 the difference to the identity is below float32's resolution.
__device__ inline float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

// A step past the end has delta = u = 0: it leaves the state as it is.
__device__ inline void load_delta(float (&to)[TILE], const float *raw, float bias, const Place &at,
                                  int tile) {
#pragma unroll
    for (int i = 0; i < TILE; ++i) {
        const int t = tile * TILE + i;
        to[i] = t < at.length ? softplus(raw[at.row(t) * at.d_inner + at.channel] + bias) : 0.0f;
    }
}

__device__ inline void load_channel(float (&to)[TILE], const float *from, const Place &at, int tile) {
#pragma unroll
    for (int i = 0; i < TILE; ++i) {
        const int t = tile * TILE + i;
        to[i] = t < at.length ? from[at.row(t) * at.d_inner + at.channel] : 0.0f;
    }
}

__device__ inline void load_states(float (*to)[STATES], const float *from, const Place &at, int tile) {
    for (int k = threadIdx.x; k < TILE * STATES; k += THREADS) {
        const int t = tile * TILE + k / STATES;
        to[k / STATES][k % STATES] = t < at.length ? from[at.row(t) * STATES + k % STATES] : 0.0f;
    }
}

__device__ inline float sum_over_lanes(float x) {
    x += __shfl_xor_sync(ALL, x, 1);
    return x + __shfl_xor_sync(ALL, x, 2);
}

// u, raw, y: (batch, length, d_inner). A: (d_inner, 16). B, C: (batch, length, 16).
// D, bias: (d_inner,). starts: (batch, tiles, d_inner, 16). Grid (d_inner / 64, batch), blocks of 256 threads.
extern "C" __global__ void __launch_bounds__(THREADS)
recurrence(const float *u, const float *raw, const float *A, const float *B, const float *C,
           const float *D, const float *bias, float *y, float *starts, int length, int d_inner,
           int reverse) {
    const Place at(length, d_inner, reverse);
    __shared__ float tile_B[TILE][STATES], tile_C[TILE][STATES];
    float a[OWN], h[OWN] = {};
    const float skip = D[at.channel], shift = bias[at.channel];
#pragma unroll
    for (int n = 0; n < OWN; ++n) a[n] = A[at.channel * STATES + at.lane * OWN + n] * LOG2E;

    for (int tile = 0; tile < at.tiles; ++tile) {
        float d[TILE], x[TILE];
        load_delta(d, raw, shift, at, tile);
        load_channel(x, u, at, tile);
        __syncthreads();  // everyone is done with the tile before
        load_states(tile_B, B, at, tile);
        load_states(tile_C, C, at, tile);
        __syncthreads();
#pragma unroll
        for (int n = 0; n < OWN; ++n) starts[at.start(tile) + n] = h[n];
#pragma unroll
        for (int i = 0; i < TILE; ++i) {
            const int t = tile * TILE + i;
            const float du = d[i] * x[i];
            float sum = 0;
#pragma unroll
            for (int n = 0; n < OWN; ++n) {
                h[n] = exp2f(d[i] * a[n]) * h[n] + du * tile_B[i][at.lane * OWN + n];
                sum += h[n] * tile_C[i][at.lane * OWN + n];
            }
            sum = sum_over_lanes(sum);
            if (at.lane == 0 && t < length) y[at.row(t) * d_inner + at.channel] = sum + skip * x[i];
        }
    }
}

// dy, du, draw: like u. dA: (batch, d_inner, 16). dD: (batch, d_inner). dBC: (d_inner / 64, batch, length, 32), dB
// then dC. The rest as above.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
recurrence_gradient(const float *u, const float *raw, const float *A, const float *B,
                    const float *C, const float *D, const float *bias, const float *starts,
                    const float *dy, float *du, float *draw, float *dA, float *dD, float *dBC,
                    int length, int d_inner, int reverse) {
    const Place at(length, d_inner, reverse);
    __shared__ float tile_B[TILE][STATES], tile_C[TILE][STATES];
    __shared__ float by_warp[TILE][WARPS][2 * STATES];
    const int warp = threadIdx.x / 32, in_warp = threadIdx.x % 32;
    float a[OWN], g[OWN] = {}, sum_A[OWN] = {}, sum_D = 0;
    const float skip = D[at.channel], shift = bias[at.channel];
#pragma unroll
    for (int n = 0; n < OWN; ++n) a[n] = A[at.channel * STATES + at.lane * OWN + n] * LOG2E;

    for (int tile = at.tiles - 1; tile >= 0; --tile) {
        float d[TILE], x[TILE], dy_[TILE];
        load_delta(d, raw, shift, at, tile);
        load_channel(x, u, at, tile);
        load_channel(dy_, dy, at, tile);
        __syncthreads();
        load_states(tile_B, B, at, tile);
        load_states(tile_C, C, at, tile);
        __syncthreads();

        float h[TILE + 1][OWN];
#pragma unroll
        for (int n = 0; n < OWN; ++n) h[0][n] = starts[at.start(tile) + n];
#pragma unroll
        for (int i = 0; i < TILE; ++i)
#pragma unroll
            for (int n = 0; n < OWN; ++n)
                h[i + 1][n] = exp2f(d[i] * a[n]) * h[i][n]
                            + d[i] * x[i] * tile_B[i][at.lane * OWN + n];

#pragma unroll
        for (int i = TILE - 1; i >= 0; --i) {
            const int t = tile * TILE + i;
            float g_B = 0, g_decay = 0, part[2 * OWN];  // part: dB, then dC, of the lane's states
#pragma unroll
            for (int n = 0; n < OWN; ++n) {
                g[n] += dy_[i] * tile_C[i][at.lane * OWN + n];
                part[n] = d[i] * x[i] * g[n];
                part[OWN + n] = dy_[i] * h[i + 1][n];
                g_B += g[n] * tile_B[i][at.lane * OWN + n];
                const float decay = exp2f(d[i] * a[n]);
                const float through = g[n] * decay * h[i][n];
                g_decay += through * a[n];
                sum_A[n] += through * d[i];
                g[n] *= decay;
            }
            g_B = sum_over_lanes(g_B);
            g_decay = sum_over_lanes(g_decay) * (1.0f / LOG2E);
            if (at.lane == 0 && t < length) {
                du[at.row(t) * d_inner + at.channel] = d[i] * g_B + skip * dy_[i];
                draw[at.row(t) * d_inner + at.channel] = (x[i] * g_B + g_decay) * -expm1f(-d[i]);
            }
            sum_D += x[i] * dy_[i];
            // Sum over the warp's 8 channels; each exchange halves what a thread still holds.
            int held = 2 * OWN, first = 0;
#pragma unroll
            for (int step = 16; step >= LANES; step /= 2) {
                held /= 2;
                const bool upper = in_warp & step;
#pragma unroll
                for (int k = 0; k < OWN; ++k) {
                    if (k >= held) break;
                    const float mine = upper ? part[held + k] : part[k];
                    const float theirs = upper ? part[k] : part[held + k];
                    part[k] = mine + __shfl_xor_sync(ALL, theirs, step);
                }
                first += upper ? held : 0;
            }
            const int state = at.lane * OWN + first % OWN;
            by_warp[i][warp][(first / OWN) * STATES + state] = part[0];
        }
        __syncthreads();
        for (int k = threadIdx.x; k < TILE * 2 * STATES; k += THREADS) {
            const int t = tile * TILE + k / (2 * STATES);
            float sum = 0;
#pragma unroll
            for (int w = 0; w < WARPS; ++w) sum += by_warp[k / (2 * STATES)][w][k % (2 * STATES)];
            if (t < length) {
                const size_t block = (size_t)blockIdx.x * gridDim.y * length;
                dBC[(block + at.row(t)) * 2 * STATES + k % (2 * STATES)] = sum;
            }
        }
        // the next tile's first __syncthreads comes before anyone writes by_warp again
    }
#pragma unroll
    for (int n = 0; n < OWN; ++n)
        dA[(at.batch * d_inner + at.channel) * STATES + at.lane * OWN + n] = sum_A[n];
    if (at.lane == 0) dD[at.batch * d_inner + at.channel] = sum_D;
}
