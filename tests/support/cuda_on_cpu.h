// The part of CUDA that the project's kernels need, to run them on the CPU. The blocks of a grid run
// one after the other. The threads of a block take turns: each runs until it waits at a barrier, or
// ends. The order of turns changes, so that a barrier that a kernel lacks changes the result.

#include <setjmp.h>
#include <ucontext.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static  // blocks take turns
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Index { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

static Index threadIdx, blockIdx, blockDim, gridDim;  // threadIdx: of the thread whose turn it is

static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

static int min(int a, int b) { return a < b ? a : b; }
static unsigned int min(unsigned int a, unsigned int b) { return a < b ? a : b; }

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

static float __int_as_float(int bits) { return __uint_as_float(bits); }

static int __float_as_int(float x) { return __float_as_uint(x); }

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

static float __fadd_rn(float x, float y) { return x + y; }  // the compiler makes no fma of these
static float __fsub_rn(float x, float y) { return x - y; }
static float __fmul_rn(float x, float y) { return x * y; }
static float __fsqrt_rn(float x) { return sqrtf(x); }

static unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }

// --- Threads that take turns, and their barriers ---------------------------------------------------

namespace cpu {

enum Waits { NOT, FOR_WARP, FOR_BLOCK, ENDED };

struct Copy {
    void *to;
    const void *from;  // null: zeros
    size_t size;
};

struct Thread {
    ucontext_t beginning;
    jmp_buf place;  // where it goes on: a jump takes no system call, as a change of context does
    bool begun = false;
    Waits waits = NOT;
    unsigned exchanges = 0;
    std::vector<std::vector<Copy>> copies = {{}};  // committed groups, and the one being made
};

constexpr size_t STACK = 1 << 17;
static std::unique_ptr<char[]> stacks;
static std::vector<Thread> threads;
static std::function<void()> kernel;
static jmp_buf scheduler;
// What the lanes of a warp hand to one another: each lane's words. Calls take turns with two places,
// so that no lane overwrites what another has still to read.
typedef std::array<unsigned, 6> Lane;
static std::vector<Lane> words[2];

static Thread &own() { return threads[threadIdx.x]; }

static void wait_until(Waits what) {
    own().waits = what;
    if (!_setjmp(own().place)) _longjmp(scheduler, 1);
}

static void live() {
    kernel();
    wait_until(ENDED);
}

static void take_turn(unsigned thread) {
    threadIdx = {thread, 0, 0};
    if (_setjmp(scheduler)) return;
    if (own().begun) _longjmp(own().place, 1);
    own().begun = true;
    setcontext(&own().beginning);
}

// Let threads first ... end - 1 go on if all of them that have not ended wait at this barrier.
static bool release(unsigned first, unsigned end, Waits barrier) {
    bool any = false;
    for (unsigned i = first; i < end; ++i) {
        if (threads[i].waits != barrier && threads[i].waits != ENDED) return false;
        any |= threads[i].waits == barrier;
    }
    for (unsigned i = first; i < end; ++i)
        if (threads[i].waits == barrier) threads[i].waits = NOT;
    return any;
}

static void run_block() {
    const unsigned size = blockDim.x;
    threads = std::vector<Thread>(size);
    for (unsigned i = 0; i < size; ++i) {
        ucontext_t &context = threads[i].beginning;
        getcontext(&context);
        context.uc_stack.ss_sp = stacks.get() + i * STACK;
        context.uc_stack.ss_size = STACK;
        makecontext(&context, live, 0);
    }
    bool going = true;
    for (unsigned round = 0; going; ++round) {
        for (unsigned i = 0; i < size; ++i) {
            const unsigned thread = round % 2 ? size - 1 - i : i;
            if (threads[thread].waits == NOT) take_turn(thread);
        }
        going = release(0, size, FOR_BLOCK);
        for (unsigned warp = 0; warp < size; warp += 32) going |= release(warp, warp + 32, FOR_WARP);
    }
    for (const Thread &thread : threads)
        if (thread.waits != ENDED) {
            std::fprintf(stderr, "a barrier that not all of its threads reach\n");
            std::abort();
        }
}

// Hand over some words; those of the 32 lanes of this warp.
static const Lane *exchange(Lane given) {
    std::vector<Lane> &place = words[own().exchanges++ % 2];
    place[threadIdx.x] = given;
    wait_until(FOR_WARP);
    return &place[threadIdx.x / 32 * 32];
}

// cp.async: nothing is there before its group was waited for.
static void copy_later(void *to, const void *from, size_t size) {
    own().copies.back().push_back({to, from, size});
}

static void commit() { own().copies.emplace_back(); }

static void wait_for_all_but(size_t left) {
    auto &groups = own().copies;
    for (; groups.size() > left + 1; groups.erase(groups.begin()))
        for (const Copy &copy : groups.front()) {
            if (copy.from) std::memcpy(copy.to, copy.from, copy.size);
            else std::memset(copy.to, 0, copy.size);
        }
}

template <typename Kernel>
static void launch(unsigned x, unsigned y, unsigned z, unsigned block, Kernel body) {
    gridDim = {x, y, z}, blockDim = {block}, kernel = body;
    stacks.reset(new char[block * STACK]);
    for (auto &place : words) place.assign(block, {});
    for (unsigned i = 0; i < x * y * z; ++i) {
        blockIdx = {i % x, i / x % y, i / x / y};
        run_block();
    }
}

}  // namespace cpu

static void __syncthreads() { cpu::wait_until(cpu::FOR_BLOCK); }

static void __syncwarp() { cpu::wait_until(cpu::FOR_WARP); }

template <typename T>
static T __shfl_xor_sync(unsigned, T x, int bit) {
    cpu::Lane given = {};
    std::memcpy(&given, &x, sizeof(T));
    const cpu::Lane theirs = cpu::exchange(given)[threadIdx.x % 32 ^ bit];
    std::memcpy(&x, &theirs, sizeof(T));
    return x;
}

// --- Instructions of a whole warp, as the PTX ISA has them: lane (g, c) is lane 4 g + c -------------

namespace cpu {

// mma.m16n8kK, K 16 or 8: lane (g, c) holds rows g and g + 8 of a, and column g of b. `low` and
// `high` read the two elements of a word.
template <int K>
static void mma(float (&d)[4], std::array<unsigned, K / 4> a, std::array<unsigned, K / 8> b,
                float (*low)(unsigned), float (*high)(unsigned)) {
    Lane given = {};
    std::copy(a.begin(), a.end(), given.begin());
    std::copy(b.begin(), b.end(), given.begin() + 4);
    const Lane *lanes = exchange(given);
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    for (int e = 0; e < 4; ++e) {
        const int row = g + e / 2 * 8, column = 2 * c + e % 2;
        double sum = d[e];
        for (int k = 0; k < K; ++k) {
            const unsigned left = lanes[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            const unsigned right = lanes[column * 4 + k % 8 / 2][4 + k / 8];
            sum += k % 2 ? double(high(left)) * high(right) : double(low(left)) * low(right);
        }
        d[e] = sum;
    }
}

// movmatrix: lane (g, c) hands over row g, columns 2c and 2c + 1.
static unsigned transposed(unsigned pair) {
    const Lane *lanes = exchange({pair});
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    auto element = [&](int row) { return lanes[row * 4 + g / 2][0] >> g % 2 * 16 & 0xffffu; };
    return element(2 * c) | element(2 * c + 1) << 16;
}

// ldmatrix.x1: lanes 0 to 7 name the rows of an 8x8 matrix.
static unsigned load_matrix(const void *row, bool transpose) {
    const auto address = (unsigned long long)row;
    const Lane *lanes = exchange({(unsigned)address, (unsigned)(address >> 32)});
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    auto element = [&](int row, int column) -> unsigned {
        const auto place = lanes[row][0] | (unsigned long long)lanes[row][1] << 32;
        return ((const unsigned short *)place)[column];
    };
    return transpose ? element(2 * c, g) | element(2 * c + 1, g) << 16
                     : element(g, 2 * c) | element(g, 2 * c + 1) << 16;
}

}  // namespace cpu
