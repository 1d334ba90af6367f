// What the kernels of both recurrences share. A block computes one head of one sequence; N is the head
// size, C the steps of a chunk. Sequences are [B, T, H, N], contiguous; states are [B, H, N, N] in fp32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifndef LAUNCH  // a test compiles the kernels for a CPU, where this is a loop
#define LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#endif

constexpr int C = 16;

__device__ inline float wide(float x) { return x; }
__device__ inline float wide(__half x) { return __half2float(x); }
__device__ inline float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline void put(float* where, float x) { *where = x; }
__device__ inline void put(__half* where, float x) { *where = __float2half(x); }
__device__ inline void put(__nv_bfloat16* where, float x) { *where = __float2bfloat16(x); }

// Where the first step of a head lies, and how far its steps are apart.
struct Place {
    long long first, stride;
    __device__ Place(int head, int T, int H, int N)
        : first((long long)(head / H) * T * H * N + (long long)(head % H) * N), stride((long long)H * N) {}
    __device__ long long operator()(int t) const { return first + t * stride; }
};

// Row i of a matrix [N, N], kept in a thread's registers.
template <int N>
__device__ inline void load(float (&row)[N], const float* matrix, int i) {
#pragma unroll
    for (int j = 0; j < N; j++) row[j] = matrix[i * N + j];
}

template <int N>
__device__ inline void save(const float (&row)[N], float* matrix, int i) {
#pragma unroll
    for (int j = 0; j < N; j++) matrix[i * N + j] = row[j];
}

// The state of a head.
template <typename Pointer>
__device__ inline Pointer of_head(Pointer states, int head, int N) {
    return states + (long long)head * N * N;
}

// A chunk of a sequence, from step `first`; each thread takes its own channel. Steps that do not exist are 0.
template <typename F, int N>
__device__ inline void load(float (&tile)[C][N], const F* sequence, const Place& place, int first, int steps) {
    for (int t = 0; t < C; t++)
        tile[t][threadIdx.x] = t < steps ? wide(sequence[place(first + t) + threadIdx.x]) : 0;
}

// One of a head's saved states: `chunk` of `chunks`.
__device__ inline float* square(float* states, int head, int chunks, int chunk, int N) {
    return states + ((long long)head * chunks + chunk) * N * N;
}
