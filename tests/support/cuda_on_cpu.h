// Enough of CUDA to run a kernel of ours on the CPU: a thread for each of a block's threads, blocks
// one after the other, barriers where the device has them.

#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // blocks take turns
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Index { unsigned x = 1, y = 1, z = 1; };
struct float4 { float x, y, z, w; };

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

static void __syncthreads() { block_barrier->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned, float x, int bit) {
    auto &barrier = *warp_barriers[threadIdx.x / 32];
    exchanged[threadIdx.x] = x;
    barrier.arrive_and_wait();
    const float theirs = exchanged[threadIdx.x ^ bit];
    barrier.arrive_and_wait();
    return theirs;
}

template <typename Kernel> static void launch(unsigned x, unsigned y, unsigned block, Kernel kernel) {
    gridDim = {x, y}, blockDim = {block};
    exchanged.assign(block, 0);
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
