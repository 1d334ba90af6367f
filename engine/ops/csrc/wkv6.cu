// The recurrence of RWKV-5 and RWKV-6, step by step in fp32, with a block of N threads for each head.
//
// forward: a thread holds one row (value channel) of the state in registers.
// reverse: the same for the state's gradient, from the last step to the first.
// columns: all other gradients are sums over rows. A thread holds one column (key channel) of the state
//          and of its gradient for a few rows at a time; chunks are independent of each other, because
//          the first two passes save both matrices at every chunk's border.

#include "common.cuh"

template <typename F, int N>
__global__ void __launch_bounds__(N) forward(
    int T, int H, const F* r, const float* log_w, const F* k, const F* v, const float* u,
    const float* state, F* y, float* last, float* starts) {
    __shared__ float r_[N], w_[N], k_[N], now[N];
    const int head = blockIdx.x, i = threadIdx.x, chunks = (T + C - 1) / C;
    const Place place(head, T, H, N);
    const float u_ = u[(head % H) * N + i];
    float s[N];
#pragma unroll
    for (int j = 0; j < N; j++) s[j] = state[((long long)head * N + i) * N + j];
    for (int t = 0; t < T; t++) {
        const long long at = place(t) + i;
        if (starts && t % C == 0) {
            float* saved = square(starts, head, chunks, t / C, N);
#pragma unroll
            for (int j = 0; j < N; j++) saved[i * N + j] = s[j];
        }
        __syncthreads();
        r_[i] = wide(r[at]);
        w_[i] = expf(log_w[at]);
        k_[i] = wide(k[at]);
        now[i] = u_ * k_[i];
        __syncthreads();
        const float v_ = wide(v[at]);
        float out = 0;
#pragma unroll
        for (int j = 0; j < N; j++) {
            out += (s[j] + v_ * now[j]) * r_[j];
            s[j] = s[j] * w_[j] + v_ * k_[j];
        }
        if (y) put(y + at, out);
    }
    if (last) {
#pragma unroll
        for (int j = 0; j < N; j++) last[((long long)head * N + i) * N + j] = s[j];
    }
}

template <typename F, int N>
__global__ void __launch_bounds__(N) reverse(
    int T, int H, const F* r, const float* log_w, const F* k, const float* u, const F* dy,
    const float* dlast, float* dstate, F* dv, float* dends) {
    __shared__ float r_[N], w_[N], k_[N], now[N];
    const int head = blockIdx.x, i = threadIdx.x, chunks = (T + C - 1) / C;
    const Place place(head, T, H, N);
    const float u_ = u[(head % H) * N + i];
    float ds[N];
#pragma unroll
    for (int j = 0; j < N; j++) ds[j] = dlast[((long long)head * N + i) * N + j];
    for (int t = T - 1; t >= 0; t--) {
        const long long at = place(t) + i;
        if (dends && (t == T - 1 || t % C == C - 1)) {
            float* saved = square(dends, head, chunks, t / C, N);
#pragma unroll
            for (int j = 0; j < N; j++) saved[i * N + j] = ds[j];
        }
        __syncthreads();
        r_[i] = wide(r[at]);
        w_[i] = expf(log_w[at]);
        k_[i] = wide(k[at]);
        now[i] = u_ * k_[i];
        __syncthreads();
        const float dy_ = wide(dy[at]);
        float dv_ = 0;
#pragma unroll
        for (int j = 0; j < N; j++) {
            dv_ += ds[j] * k_[j] + dy_ * r_[j] * now[j];
            ds[j] = ds[j] * w_[j] + dy_ * r_[j];
        }
        if (dv) put(dv + at, dv_);
    }
#pragma unroll
    for (int j = 0; j < N; j++) dstate[((long long)head * N + i) * N + j] = ds[j];
}

constexpr int ROWS = 4;  // of the matrices at a time: they and their history stay in registers

template <typename F, int N>
__global__ void __launch_bounds__(N) columns(
    int T, int H, const F* r, const float* log_w, const F* k, const F* v, const float* u, const F* dy,
    float* starts, float* dends, F* dr, float* dlog_w, F* dk, float* parts) {
    __shared__ float v_[C][N], dy_[C][N];             // by rows: for all threads
    __shared__ float r_[C][N], w_[C][N], k_[C][N];  // by columns: each thread's own
    const int head = blockIdx.x, chunk = blockIdx.y, j = threadIdx.x, chunks = (T + C - 1) / C;
    const int first = chunk * C, steps = min(C, T - first);
    const Place place(head, T, H, N);
    for (int t = 0; t < C; t++) {
        const bool exists = t < steps;  // what does not exist changes nothing
        const long long at = place(first + (exists ? t : 0)) + j;
        v_[t][j] = exists ? wide(v[at]) : 0;
        dy_[t][j] = exists ? wide(dy[at]) : 0;
        r_[t][j] = exists ? wide(r[at]) : 0;
        w_[t][j] = exists ? expf(log_w[at]) : 1;
        k_[t][j] = exists ? wide(k[at]) : 0;
    }
    __syncthreads();
    const float* start = square(starts, head, chunks, chunk, N);
    const float* dend = square(dends, head, chunks, chunk, N);
    float sums[4][C] = {};  // over rows: of r, k, w, and v dy
#pragma unroll 1
    for (int top = 0; top < N; top += ROWS) {
        float s[ROWS], ds[ROWS], before[C][ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            s[i] = start[(top + i) * N + j];
            ds[i] = dend[(top + i) * N + j];
        }
#pragma unroll
        for (int t = 0; t < C; t++) {
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                before[t][i] = s[i];
                sums[0][t] += s[i] * dy_[t][top + i];
                sums[3][t] += v_[t][top + i] * dy_[t][top + i];
                s[i] = s[i] * w_[t][j] + v_[t][top + i] * k_[t][j];
            }
        }
#pragma unroll
        for (int t = C - 1; t >= 0; t--) {
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                sums[1][t] += ds[i] * v_[t][top + i];
                sums[2][t] += ds[i] * before[t][i];
                ds[i] = ds[i] * w_[t][j] + dy_[t][top + i] * r_[t][j];
            }
        }
    }
    const float u_ = u[(head % H) * N + j];
    float du = 0;
#pragma unroll
    for (int t = 0; t < C; t++) {
        if (t >= steps) continue;
        const long long at = place(first + t) + j;
        put(dr + at, sums[0][t] + u_ * k_[t][j] * sums[3][t]);
        put(dk + at, sums[1][t] + u_ * r_[t][j] * sums[3][t]);
        dlog_w[at] = sums[2][t] * w_[t][j];
        du += r_[t][j] * k_[t][j] * sums[3][t];
    }
    if (parts) parts[((long long)head * chunks + chunk) * N + j] = du;
}

// p: forward r log_w k v u state y last starts; reverse r log_w k u dy dlast dstate dv dends; columns
// r log_w k v u dy starts dends dr dlog_w dk parts. Null: not wanted.
template <typename F, int N>
static int run(int pass, int B, int T, int H, void** p, cudaStream_t stream) {
    const dim3 heads(B * H), all(B * H, (T + C - 1) / C);
    if (pass == 0)
        LAUNCH((forward<F, N>), heads, N, stream,
            T, H, (F*)p[0], (float*)p[1], (F*)p[2], (F*)p[3], (float*)p[4], (float*)p[5], (F*)p[6],
            (float*)p[7], (float*)p[8]);
    else if (pass == 1)
        LAUNCH((reverse<F, N>), heads, N, stream,
            T, H, (F*)p[0], (float*)p[1], (F*)p[2], (float*)p[3], (F*)p[4], (float*)p[5], (float*)p[6],
            (F*)p[7], (float*)p[8]);
    else
        LAUNCH((columns<F, N>), all, N, stream,
            T, H, (F*)p[0], (float*)p[1], (F*)p[2], (F*)p[3], (float*)p[4], (F*)p[5], (float*)p[6],
            (float*)p[7], (F*)p[8], (float*)p[9], (F*)p[10], (float*)p[11]);
    return (int)cudaGetLastError();
}

#include "entry.cuh"
