// The selective scan up to the gate, and its gradient, for training:
//
//   delta_t = softplus(raw_t + bias),   h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t,
//   y_t = <h_t, C_t> + D u_t
//
// Four lanes share a channel; each keeps four of its 16 states in registers. A block handles 64
// channels of one cloud, and walks through the whole sequence, TILE steps at a time. The forward
// pass writes the state at the start of every tile to memory. The backward pass goes through the
// tiles from the last to the first. In each it walks forward to compute its states again, and then
// backward:
//
//   g_t = dy_t C_t + exp(delta_{t+1} A) g_{t+1}                            (dL/dh_t)
//   dC_t = dy_t h_t     dB_t = delta_t u_t g_t        (both summed over channels)
//   du_t = delta_t <g_t, B_t> + D dy_t
//   draw_t = (u_t <g_t, B_t> + <g_t, A exp(delta_t A) h_{t-1}>) (1 - exp(-delta_t))
//   dA = sum over t of delta_t g_t exp(delta_t A) h_{t-1},   dD = sum of u_t dy_t
//
// (1 - exp(-delta) is the derivative of softplus.) The gradient of bias is the sum of draw.
//
// The four lanes of a channel do not repeat work. The threads of the block fetch the inputs of a
// tile together, one tile ahead, apply softplus, and put them into shared memory. The sums over
// the four lanes are divided among them: each lane ends with the sums of two steps, and writes the
// outputs of these.
//
// All arithmetic is float32. Sums over channels are taken in a fixed order: over lanes, warps and
// the block here, over blocks by the caller. So the same input gives the same bits.
//
// The caller defines BF16 (see elements.cuh).

#include "activations.cuh"
#include "elements.cuh"

constexpr int STATES = 16, LANES = 4, OWN = STATES / LANES;
constexpr int CHANNELS = 64, THREADS = CHANNELS * LANES, WARPS = THREADS / 32;
constexpr int TILE = 8;               // steps
constexpr int PART = TILE / LANES;    // steps of a tile that one thread fetches and one lane writes
constexpr int PITCH = TILE + 4;       // floats per channel in shared memory; avoids bank conflicts
constexpr unsigned ALL = 0xffffffffu;

typedef float PerChannel[CHANNELS][PITCH];
typedef float PerStep[TILE][2 * STATES];  // B, then C

// Sum v with that of the thread whose number differs in `bit`, and keep half of it: the first half
// in the thread whose bit is 0, the second half in the other.
template <int N> __device__ inline void halve(float *v, int bit) {
    const bool upper = threadIdx.x & bit;
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
        const float mine = upper ? v[N / 2 + k] : v[k], theirs = upper ? v[k] : v[N / 2 + k];
        v[k] = mine + __shfl_xor_sync(ALL, theirs, bit);
    }
}

// Sum v over a channel's lanes. Lane l keeps the sums of steps PART l to PART (l + 1) - 1.
__device__ inline void sum_over_lanes(float (&v)[TILE]) {
    halve<TILE>(v, 2);
    halve<TILE / 2>(v, 1);
}

__device__ inline void read(float (&to)[TILE], const float (&from)[PITCH]) {
#pragma unroll
    for (int i = 0; i < TILE; i += 4) {
        const float4 four = *reinterpret_cast<const float4 *>(from + i);
        to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
    }
}

__device__ inline void read(float (&to)[OWN], const float *from) {
    const float4 four = *reinterpret_cast<const float4 *>(from);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

__device__ inline void write(float *to, const float (&from)[OWN]) {
    *reinterpret_cast<float4 *>(to) = make_float4(from[0], from[1], from[2], from[3]);
}

// Which data a thread works on. It computes with states of channel `channel`. Apart from that it
// fetches the steps `first` and `first` + LANES of channel `column`, and one number of B or C.
struct Place {
    int lane, channel, column, first, length, d_inner, tiles;
    bool reverse;
    size_t cloud;  // the row at which this block's cloud begins

    __device__ Place(int length, int d_inner, int reverse)
        : lane(threadIdx.x % LANES), channel(threadIdx.x / LANES), column(threadIdx.x % CHANNELS),
          first(threadIdx.x / CHANNELS), length(length), d_inner(d_inner),
          tiles((length + TILE - 1) / TILE), reverse(reverse != 0),
          cloud((size_t)blockIdx.y * length) {}

    __device__ int row(int t) const { return reverse ? length - 1 - t : t; }

    // Where this block's cloud and channels begin in a (batch, length, d_inner) tensor.
    template <typename T> __device__ T *block(T *tensor) const {
        return tensor + cloud * d_inner + blockIdx.x * CHANNELS;
    }
    // Where this lane's states are in a (..., d_inner, 16) tensor, `before` being the index in front.
    __device__ size_t states(size_t before) const {
        return (before * d_inner + blockIdx.x * CHANNELS + channel) * STATES + lane * OWN;
    }
    // Fetch this thread's steps of a tile; 0 outside the sequence.
    __device__ void fetch(float (&to)[PART], const Value *from, int tile) const {
#pragma unroll
        for (int j = 0; j < PART; ++j) {
            const int t = tile * TILE + first + j * LANES;
            to[j] = t >= 0 && t < length ? widen(from[row(t) * d_inner + column]) : 0.0f;
        }
    }
    __device__ void put(PerChannel &to, const float (&from)[PART]) const {
#pragma unroll
        for (int j = 0; j < PART; ++j) to[column][first + j * LANES] = from[j];
    }
    // A step past the end gets delta = 0. Its u is 0 too, so it leaves the state as it is.
    __device__ void put_delta(PerChannel &to, const float (&raw)[PART], float bias,
                              int tile) const {
#pragma unroll
        for (int j = 0; j < PART; ++j) {
            const int step = first + j * LANES;
            to[column][step] = tile * TILE + step < length ? softplus(raw[j] + bias) : 0.0f;
        }
    }
};

// Fetches one number of B or C per tile and thread; each warp fetches one step.
struct StatesFetch {
    const Value *from;
    int stride, step = threadIdx.x / 32, column = threadIdx.x % 32;

    __device__ StatesFetch(const Place &at, const Value *B, const Value *C, int stride_B,
                           int stride_C)
        : from(threadIdx.x % 32 < STATES ? B : C),
          stride(threadIdx.x % 32 < STATES ? stride_B : stride_C) {
        from += at.cloud * stride + column % STATES;
    }
    __device__ float operator()(const Place &at, int tile) const {
        const int t = tile * TILE + step;
        return t >= 0 && t < at.length ? widen(from[at.row(t) * stride]) : 0.0f;
    }
};

// u, raw, y: (batch, length, d_inner). A: (d_inner, 16). B, C: (batch, length, 16), their rows
// stride_B and stride_C apart. D, bias: (d_inner,). starts: (batch, tiles, d_inner, 16).
// Grid (d_inner / 64, batch), blocks of 256 threads.
extern "C" __global__ void __launch_bounds__(THREADS)
recurrence(const Value *u, const Value *raw, const float *A, const Value *B, const Value *C,
           const float *D, const float *bias, Value *y, float *starts, int length, int d_inner,
           int stride_B, int stride_C, int reverse) {
    __shared__ __align__(16) PerChannel all_d[2], all_x[2];
    __shared__ __align__(16) PerStep all_BC[2];
    const Place at(length, d_inner, reverse);
    const StatesFetch fetch_BC(at, B, C, stride_B, stride_C);
    u = at.block(u), raw = at.block(raw), y = at.block(y);
    D += blockIdx.x * CHANNELS, bias += blockIdx.x * CHANNELS;
    const float skip = D[at.channel], shift = bias[at.column];
    float a[OWN], h[OWN] = {};
    read(a, A + at.states(0));
#pragma unroll
    for (int n = 0; n < OWN; ++n) a[n] *= LOG2_E;

    float next_raw[PART], next_x[PART], next_BC = fetch_BC(at, 0);
    at.fetch(next_raw, raw, 0);
    at.fetch(next_x, u, 0);
    for (int tile = 0; tile < at.tiles; ++tile) {
        PerChannel &tile_d = all_d[tile % 2], &tile_x = all_x[tile % 2];
        PerStep &tile_BC = all_BC[tile % 2];
        at.put_delta(tile_d, next_raw, shift, tile);
        at.put(tile_x, next_x);
        tile_BC[fetch_BC.step][fetch_BC.column] = next_BC;
        __syncthreads();  // also: every thread has finished with the tile before the last
        at.fetch(next_raw, raw, tile + 1);
        at.fetch(next_x, u, tile + 1);
        next_BC = fetch_BC(at, tile + 1);

        write(starts + at.states((size_t)blockIdx.y * at.tiles + tile), h);
        float d[TILE], x[TILE], sum[TILE];
        read(d, tile_d[at.channel]);
        read(x, tile_x[at.channel]);
#pragma unroll
        for (int i = 0; i < TILE; ++i) {
            float b[OWN], c[OWN];
            read(b, tile_BC[i] + at.lane * OWN);
            read(c, tile_BC[i] + STATES + at.lane * OWN);
            const float dx = d[i] * x[i];
            sum[i] = 0;
#pragma unroll
            for (int n = 0; n < OWN; ++n) {
                h[n] = fast_exp2(d[i] * a[n]) * h[n] + dx * b[n];
                sum[i] += h[n] * c[n];
            }
        }
        sum_over_lanes(sum);
#pragma unroll
        for (int j = 0; j < PART; ++j) {
            const int step = PART * at.lane + j, t = tile * TILE + step;
            const float out = sum[j] + skip * tile_x[at.channel][step];
            if (t < length) y[at.row(t) * d_inner + at.channel] = narrow(out);
        }
    }
}

// dy, du, draw: like u. dA: (batch, d_inner, 16). dD_bias: (batch, 2, d_inner).
// dBC: (d_inner / 64, batch, length, 32), dB then dC. The other arguments as for `recurrence`.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
recurrence_gradient(const Value *u, const Value *raw, const float *A, const Value *B,
                    const Value *C, const float *D, const float *bias, const float *starts,
                    const Value *dy, Value *du, Value *draw, float *dA, float *dD_bias, float *dBC,
                    int length, int d_inner, int stride_B, int stride_C, int reverse) {
    __shared__ __align__(16) PerChannel all_d[2], all_x[2], all_dy[2];
    __shared__ __align__(16) PerStep all_BC[2];
    __shared__ float by_warp[TILE][WARPS][2 * STATES];
    const Place at(length, d_inner, reverse);
    const StatesFetch fetch_BC(at, B, C, stride_B, stride_C);
    u = at.block(u), raw = at.block(raw), dy = at.block(dy);
    du = at.block(du), draw = at.block(draw);
    D += blockIdx.x * CHANNELS, bias += blockIdx.x * CHANNELS;
    dBC += ((size_t)blockIdx.x * gridDim.y * length + at.cloud) * 2 * STATES;
    const float skip = D[at.channel], shift = bias[at.column];
    float a[OWN], g[OWN] = {}, sum_A[OWN] = {}, sum_D = 0, sum_bias = 0;
    read(a, A + at.states(0));
#pragma unroll
    for (int n = 0; n < OWN; ++n) a[n] *= LOG2_E;

    const int last = at.tiles - 1;
    float next_raw[PART], next_x[PART], next_dy[PART], next_BC = fetch_BC(at, last);
    at.fetch(next_raw, raw, last);
    at.fetch(next_x, u, last);
    at.fetch(next_dy, dy, last);
    for (int tile = last; tile >= 0; --tile) {
        PerChannel &tile_d = all_d[tile % 2], &tile_x = all_x[tile % 2];
        PerChannel &tile_dy = all_dy[tile % 2];
        PerStep &tile_BC = all_BC[tile % 2];
        float h[TILE + 1][OWN];
        read(h[0], starts + at.states((size_t)blockIdx.y * at.tiles + tile));
        at.put_delta(tile_d, next_raw, shift, tile);
        at.put(tile_x, next_x);
        at.put(tile_dy, next_dy);
        tile_BC[fetch_BC.step][fetch_BC.column] = next_BC;
        __syncthreads();
        at.fetch(next_raw, raw, tile - 1);
        at.fetch(next_x, u, tile - 1);
        at.fetch(next_dy, dy, tile - 1);
        next_BC = fetch_BC(at, tile - 1);

        // Forward through the tile, to compute its states again.
        float d[TILE], dx[TILE], dy_[TILE];
        read(d, tile_d[at.channel]);
        read(dx, tile_x[at.channel]);
        read(dy_, tile_dy[at.channel]);
#pragma unroll
        for (int i = 0; i < TILE; ++i) {
            float b[OWN];
            read(b, tile_BC[i] + at.lane * OWN);
            dx[i] *= d[i];
#pragma unroll
            for (int n = 0; n < OWN; ++n)
                h[i + 1][n] = fast_exp2(d[i] * a[n]) * h[i][n] + dx[i] * b[n];
        }

        // Backward through the tile: the gradient g of the state, and what it gives.
        float g_B[TILE], g_decay[TILE];
#pragma unroll
        for (int i = TILE - 1; i >= 0; --i) {
            float b[OWN], c[OWN], part[2 * OWN];  // part: dB, then dC, of this lane's states
            read(b, tile_BC[i] + at.lane * OWN);
            read(c, tile_BC[i] + STATES + at.lane * OWN);
            g_B[i] = g_decay[i] = 0;
#pragma unroll
            for (int n = 0; n < OWN; ++n) {
                g[n] += dy_[i] * c[n];
                part[n] = dx[i] * g[n];
                part[OWN + n] = dy_[i] * h[i + 1][n];
                g_B[i] += g[n] * b[n];
                g[n] *= fast_exp2(d[i] * a[n]);
                const float through = g[n] * h[i][n];
                g_decay[i] += through * a[n];
                sum_A[n] += through * d[i];
            }
            // Sum over the warp's 8 channels; each thread keeps one of the 32 sums.
            halve<8>(part, 16);
            halve<4>(part, 8);
            halve<2>(part, 4);
            const int kept = threadIdx.x % 32 / LANES;  // bits 16, 8, 4 of the thread's number
            const int place = kept / OWN * STATES + at.lane * OWN + kept % OWN;
            by_warp[i][threadIdx.x / 32][place] = part[0];
        }
        // Outputs of the steps whose sums this lane keeps.
        sum_over_lanes(g_B);
        sum_over_lanes(g_decay);
#pragma unroll
        for (int j = 0; j < PART; ++j) {
            const int step = PART * at.lane + j, t = tile * TILE + step;
            const float d_t = tile_d[at.channel][step], x_t = tile_x[at.channel][step];
            const float dy_t = tile_dy[at.channel][step];
            const float raw_gradient = (x_t * g_B[j] + g_decay[j] * (1 / LOG2_E)) * -expm1f(-d_t);
            sum_D += x_t * dy_t;
            sum_bias += raw_gradient;
            if (t < length) {
                const int element = at.row(t) * d_inner + at.channel;
                du[element] = narrow(d_t * g_B[j] + skip * dy_t);
                draw[element] = narrow(raw_gradient);
            }
        }
        // dB and dC: the sums of the warps.
        __syncthreads();
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += by_warp[fetch_BC.step][w][fetch_BC.column];
        const int t = tile * TILE + fetch_BC.step;
        if (t < length) dBC[at.row(t) * 2 * STATES + fetch_BC.column] = sum;
        // The first __syncthreads of the next tile comes before any thread writes by_warp again.
    }
    // Sums over the whole sequence.
    write(dA + at.states(blockIdx.y), sum_A);
#pragma unroll
    for (int bit = 1; bit < LANES; bit *= 2) {
        sum_D += __shfl_xor_sync(ALL, sum_D, bit);
        sum_bias += __shfl_xor_sync(ALL, sum_bias, bit);
    }
    dD_bias += (size_t)blockIdx.y * 2 * d_inner + blockIdx.x * CHANNELS + at.channel;
    if (at.lane == 0) dD_bias[0] = sum_D, dD_bias[d_inner] = sum_bias;
}
