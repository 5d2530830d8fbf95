// Mamba's causal convolution with SiLU in one direction, and its gradient, for training.
//
//   c_s = bias + sum_k weight_k x_{s - REACH + k},   y_s = c_s / (1 + exp(-c_s))
//
// s counts the steps of the walk, which goes from the first token to the last, or back. A thread
// computes one channel of RUN steps. All arithmetic is float32.
//
// The caller defines BF16 (see elements.cuh), WIDTH of the convolution and RUN.

#include "activations.cuh"
#include "elements.cuh"

constexpr int REACH = WIDTH - 1;

// The channel and the steps that this thread computes.
struct Place {
    int channel, start, length, d_inner, run, runs;
    size_t batch;
    bool reverse, outside;

    __device__ Place(int length, int d_inner, int reverse)
        : length(length), d_inner(d_inner), batch(blockIdx.y), reverse(reverse != 0) {
        const int index = blockIdx.x * blockDim.x + threadIdx.x;
        channel = index % d_inner;
        run = index / d_inner;
        start = run * RUN;
        runs = (length + RUN - 1) / RUN;
        outside = run >= runs;
    }
    // Step s of a tensor whose rows are `stride` apart; 0 outside the sequence.
    __device__ float load(const Value *from, int s, int stride) const {
        return s >= 0 && s < length ? widen(from[at(s, stride)]) : 0.0f;
    }
    __device__ size_t at(int s, int stride) const {
        return (batch * length + (reverse ? length - 1 - s : s)) * stride + channel;
    }
};

// x, y: (batch, length, d_inner); the rows of x are x_stride apart. weight: (d_inner, WIDTH);
// bias: (d_inner,).
extern "C" __global__ void causal_conv(const Value *x, const float *weight, const float *bias,
                                       Value *y, int length, int d_inner, int x_stride,
                                       int reverse) {
    const Place here(length, d_inner, reverse);
    if (here.outside) return;
    float w[WIDTH], window[RUN + REACH];
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) w[k] = weight[here.channel * WIDTH + k];
#pragma unroll
    for (int i = 0; i < RUN + REACH; ++i)
        window[i] = here.load(x, here.start - REACH + i, x_stride);
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        if (here.start + i >= length) break;
        float c = bias[here.channel];
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) c += w[k] * window[i + k];
        y[here.at(here.start + i, d_inner)] = narrow(silu(c));
    }
}

// dy, dx: (batch, length, d_inner). partial: (batch, runs, WIDTH + 1, d_inner), the sums over a run
// that make up the gradients of the weight and, in the last place, of the bias.
extern "C" __global__ void causal_conv_gradient(const Value *x, const float *weight,
                                                const float *bias, const Value *dy, Value *dx,
                                                float *partial, int length, int d_inner,
                                                int x_stride, int reverse) {
    const Place here(length, d_inner, reverse);
    if (here.outside) return;
    float w[WIDTH], window[RUN + 2 * REACH], dc[RUN + REACH];
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) w[k] = weight[here.channel * WIDTH + k];
#pragma unroll
    for (int i = 0; i < RUN + 2 * REACH; ++i)
        window[i] = here.load(x, here.start - REACH + i, x_stride);
    // The gradient of c at this run's steps, and at the next REACH, whose windows overlap the run.
#pragma unroll
    for (int i = 0; i < RUN + REACH; ++i) {
        float c = bias[here.channel];
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) c += w[k] * window[i + k];
        const float gate = 1 / (1 + expf(-c));
        dc[i] = here.load(dy, here.start + i, d_inner) * gate * (1 + c * (1 - gate));
    }
    // The gradients of x, of the weight and of the bias.
    float sums[WIDTH + 1] = {};
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        float d = 0;
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) {
            d += w[k] * dc[i + REACH - k];
            sums[k] += dc[i] * window[i + k];
        }
        sums[WIDTH] += dc[i];
        if (here.start + i < length) dx[here.at(here.start + i, d_inner)] = narrow(d);
    }
#pragma unroll
    for (int k = 0; k < WIDTH + 1; ++k)
        partial[((here.batch * here.runs + here.run) * (WIDTH + 1) + k) * d_inner + here.channel] =
            sums[k];
}
