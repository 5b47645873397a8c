// Runs the kernels of thaw/cuda/kernels.cu on the CPU: a thread for each CUDA thread of a block.
#include <algorithm>
#include <barrier>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#define __host__
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(n)

struct Index {
    unsigned x;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static thread_local Index threadIdx, blockIdx, blockDim;
static std::barrier<>* block;
static unsigned exchanged[1024];
static void __syncthreads() { block->arrive_and_wait(); }
static unsigned __shfl_down_sync(unsigned, unsigned value, unsigned step) {
    exchanged[threadIdx.x] = value;
    __syncthreads();
    const unsigned other = threadIdx.x % 32 + step < 32 ? exchanged[threadIdx.x + step] : value;
    __syncthreads();
    return other;
}
static unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)((((uint64_t)high << 32) | low) >> (shift & 31));
}
using std::max;
using std::min;

#include "kernels.cu"

template <typename Kernel>
static void launch(unsigned blocks, unsigned threads, Kernel kernel) {
    for (unsigned b = 0; b < blocks; ++b) {
        std::barrier<> together(threads);
        block = &together;
        std::vector<std::thread> running;
        for (unsigned t = 0; t < threads; ++t)
            running.emplace_back([=] {
                threadIdx = {t}, blockIdx = {b}, blockDim = {threads};
                kernel();
            });
        for (auto& each : running) each.join();
    }
}

extern "C" void emulate_remainders(const Segment* segments, u32* remainders, u32 count) {
    launch(count, THREADS, [=] { thaw_remainders(segments, remainders); });
}

extern "C" void emulate_join(const Segment* segments, const u32* remainders, const Run* runs,
                             u32 count, u32* crcs) {
    launch(1, count, [=] { thaw_join(segments, remainders, runs, count, crcs); });
}

extern "C" void emulate_copy(const CopyRange* parts, u32 count) {
    launch(count, THREADS, [=] { thaw_copy(parts); });
}
