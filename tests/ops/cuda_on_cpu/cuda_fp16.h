// Just enough of CUDA for a C++20 compiler to run the kernels on a CPU: a block's threads are real threads
// that meet at a barrier, and blocks run one after the other.
#pragma once

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#define __global__ static
#define __device__
#define __shared__ static
#define __launch_bounds__(n)

struct dim3 {
    unsigned x, y;
    dim3(unsigned x = 1, unsigned y = 1) : x(x), y(y) {}
};
inline thread_local dim3 blockIdx, threadIdx;
inline std::barrier<>* meeting;
inline void __syncthreads() { meeting->arrive_and_wait(); }
using std::min;

using cudaStream_t = void*;
using cudaError_t = int;
inline int cudaGetLastError() { return 0; }
inline const char* cudaGetErrorString(int) { return ""; }

using __half = _Float16;
inline float __half2float(__half x) { return float(x); }
inline __half __float2half(float x) { return __half(x); }

template <typename... P, typename... A>
void launch_blocks(void (*kernel)(P...), dim3 blocks, int threads, A... arguments) {
    for (unsigned y = 0; y < blocks.y; y++)
        for (unsigned x = 0; x < blocks.x; x++) {
            std::barrier<> here(threads);
            meeting = &here;
            std::vector<std::jthread> running;
            for (int i = 0; i < threads; i++)
                running.emplace_back([=] {
                    blockIdx = dim3(x, y);
                    threadIdx = dim3(i);
                    kernel(arguments...);
                });
        }
}
#define LAUNCH(kernel, blocks, threads, stream, ...) launch_blocks(kernel, blocks, threads, __VA_ARGS__)
