// The part of CUDA that the project's kernels need, to run them on the CPU. Each thread of a block
// is a thread here, the blocks run one after the other, and barriers are where the device has them.

#include <array>
#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static  // blocks take turns
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Index { unsigned x = 1, y = 1, z = 1; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::unique_ptr<std::barrier<>> block_barrier;
static std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
static std::vector<float> exchanged;

static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

static unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

// As cvt.rn.bf16x2.f32: rounded to the nearest, ties to even; NaN becomes 0x7fff.
static unsigned two_bf16(float high, float low) {
    auto rounded = [](float x) {
        const unsigned bits = __float_as_uint(x);
        return x != x ? 0x7fffu : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return rounded(high) << 16 | rounded(low);
}

// As cvt.f32.f16.
static float from_half_bits(unsigned short bits) {
    const unsigned size = bits & 0x7fff;
    const float x = size < 0x400    ? std::ldexp((float)size, -24)
                    : size < 0x7c00 ? __uint_as_float((size << 13) + (112u << 23))
                                    : __uint_as_float((size << 13) + (224u << 23));
    return bits & 0x8000 ? -x : x;
}

// As cvt.rn.f16x2.f32: rounded to the nearest, ties to even; NaN becomes 0x7fff.
static unsigned two_halves(float high, float low) {
    auto rounded = [](float x) -> unsigned {
        const float size = std::fabs(x);
        const unsigned bits = __float_as_uint(size), sign = std::signbit(x) ? 0x8000 : 0;
        if (x != x) return 0x7fff;
        if (size >= 65520) return sign | 0x7c00;
        if (size < 0x1p-14f) return sign | (unsigned)std::nearbyint(std::ldexp(size, 24));
        return sign | (((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10));
    };
    return rounded(high) << 16 | rounded(low);
}

#define __expf expf  // a function of this name is in glibc
static float __fdividef(float x, float y) { return x / y; }
static float rsqrtf(float x) { return 1 / sqrtf(x); }

static unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }

static void __syncthreads() { block_barrier->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned, float x, int bit) {
    auto &barrier = *warp_barriers[threadIdx.x / 32];
    exchanged[threadIdx.x] = x;
    barrier.arrive_and_wait();
    const float theirs = exchanged[threadIdx.x ^ bit];
    barrier.arrive_and_wait();
    return theirs;
}

static void __syncwarp() { warp_barriers[threadIdx.x / 32]->arrive_and_wait(); }

// What the lanes of a warp hand to one another: each lane's words, seen by all until the next call.
static std::vector<std::array<unsigned, 6>> words;

static const std::array<unsigned, 6> *exchange(std::array<unsigned, 6> own) {
    __syncwarp();
    words[threadIdx.x] = own;
    __syncwarp();
    return &words[threadIdx.x / 32 * 32];
}

// mma.m16n8k16: lane (g, c) holds rows g and g + 8 of a, column g of b (PTX ISA). `low` and `high`
// read the two elements of a word.
template <typename Half>
static void mma_on_cpu(float (&d)[4], uint4 a, unsigned b0, unsigned b1, Half low, Half high) {
    const auto *lanes = exchange({a.x, a.y, a.z, a.w, b0, b1});
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    for (int e = 0; e < 4; ++e) {
        const int row = g + e / 2 * 8, column = 2 * c + e % 2;
        double sum = d[e];
        for (int k = 0; k < 16; ++k) {
            const unsigned left = lanes[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            const unsigned right = lanes[column * 4 + k % 8 / 2][4 + k / 8];
            sum += k % 2 ? double(high(left)) * high(right) : double(low(left)) * low(right);
        }
        d[e] = sum;
    }
}

// movmatrix: lane (g, c) hands over row g, columns 2c and 2c + 1.
static unsigned transpose_on_cpu(unsigned pair) {
    const auto *lanes = exchange({pair});
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    auto element = [&](int row) { return lanes[row * 4 + g / 2][0] >> g % 2 * 16 & 0xffffu; };
    return element(2 * c) | element(2 * c + 1) << 16;
}

template <typename Kernel> static void launch(unsigned x, unsigned y, unsigned block, Kernel kernel) {
    gridDim = {x, y}, blockDim = {block};
    exchanged.assign(block, 0);
    words.assign(block, {});
    block_barrier = std::make_unique<std::barrier<>>(block);
    warp_barriers.clear();
    for (unsigned warp = 0; warp < block / 32; ++warp)
        warp_barriers.push_back(std::make_unique<std::barrier<>>(32));
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < block; ++thread)
        threads.emplace_back([=] {
            threadIdx = {thread, 0, 0};
            for (unsigned i = 0; i < x * y; ++i) {
                blockIdx = {i % x, i / x, 0};
                kernel();
                __syncthreads();
            }
        });
    for (auto &thread : threads) thread.join();
}
