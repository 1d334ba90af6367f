// The recurrence of RWKV-7, step by step in fp32, with a block of N threads for each head.
//
// forward: a thread holds one row (value channel) of the state in registers.
// reverse: the same for the state's gradient, from the last step to the first.
// columns: all other gradients are sums over rows. A thread holds one column (key channel) of the state
//          and of its gradient for a few rows at a time; chunks are independent of each other, because
//          the first two passes save both matrices at every chunk's border, and for every step the
//          removed values (S a) and their gradients (dS b).

#include "common.cuh"

template <typename F, int N>
__global__ void __launch_bounds__(N) forward(
    int T, int H, const F* r, const float* log_w, const F* k, const F* v, const F* a, const F* b,
    const float* state, F* y, float* last, float* starts, float* removed) {
    __shared__ float r_[N], w_[N], k_[N], a_[N], b_[N];
    const int head = blockIdx.x, i = threadIdx.x, chunks = (T + C - 1) / C;
    const Place place(head, T, H, N);
    float s[N];
    load(s, of_head(state, head, N), i);
    for (int t = 0; t < T; t++) {
        const long long at = place(t) + i;
        if (starts && t % C == 0) save(s, square(starts, head, chunks, t / C, N), i);
        __syncthreads();
        r_[i] = wide(r[at]);
        w_[i] = expf(log_w[at]);
        k_[i] = wide(k[at]);
        a_[i] = wide(a[at]);
        b_[i] = wide(b[at]);
        __syncthreads();
        const float v_ = wide(v[at]);
        float sa = 0, out = 0;
#pragma unroll
        for (int j = 0; j < N; j++) sa += s[j] * a_[j];
#pragma unroll
        for (int j = 0; j < N; j++) {
            s[j] = s[j] * w_[j] + sa * b_[j] + v_ * k_[j];
            out += s[j] * r_[j];
        }
        if (removed) removed[at] = sa;
        if (y) put(y + at, out);
    }
    if (last) save(s, of_head(last, head, N), i);
}

template <typename F, int N>
__global__ void __launch_bounds__(N) reverse(
    int T, int H, const F* r, const float* log_w, const F* k, const F* a, const F* b, const F* dy,
    const float* dlast, float* dstate, F* dv, float* dends, float* dremoved) {
    __shared__ float r_[N], w_[N], k_[N], a_[N], b_[N];
    const int head = blockIdx.x, i = threadIdx.x, chunks = (T + C - 1) / C;
    const Place place(head, T, H, N);
    float ds[N];
    load(ds, of_head(dlast, head, N), i);
    for (int t = T - 1; t >= 0; t--) {
        const long long at = place(t) + i;
        if (dends && (t == T - 1 || t % C == C - 1)) save(ds, square(dends, head, chunks, t / C, N), i);
        __syncthreads();
        r_[i] = wide(r[at]);
        w_[i] = expf(log_w[at]);
        k_[i] = wide(k[at]);
        a_[i] = wide(a[at]);
        b_[i] = wide(b[at]);
        __syncthreads();
        const float dy_ = wide(dy[at]);
        float dsa = 0, dv_ = 0;
#pragma unroll
        for (int j = 0; j < N; j++) {
            ds[j] += dy_ * r_[j];
            dsa += ds[j] * b_[j];
            dv_ += ds[j] * k_[j];
        }
#pragma unroll
        for (int j = 0; j < N; j++) ds[j] = ds[j] * w_[j] + dsa * a_[j];
        if (dremoved) dremoved[at] = dsa;
        if (dv) put(dv + at, dv_);
    }
    save(ds, of_head(dstate, head, N), i);
}

constexpr int ROWS = 2;  // of the matrices at a time: they and their history stay in registers

template <typename F, int N>
__global__ void __launch_bounds__(N) columns(
    int T, int H, const F* r, const float* log_w, const F* k, const F* v, const F* a, const F* b,
    const F* dy, float* starts, const float* removed, float* dends, const float* dremoved,
    F* dr, float* dlog_w, F* dk, F* da, F* db) {
    __shared__ float v_[C][N], dy_[C][N], sa_[C][N], dsa_[C][N];      // by rows: for all threads
    __shared__ float r_[C][N], w_[C][N], k_[C][N], a_[C][N], b_[C][N];  // by columns: each thread's own
    const int head = blockIdx.x, chunk = blockIdx.y, j = threadIdx.x, chunks = (T + C - 1) / C;
    const int first = chunk * C, steps = min(C, T - first);
    const Place place(head, T, H, N);
    load(v_, v, place, first, steps);
    load(dy_, dy, place, first, steps);
    load(sa_, removed, place, first, steps);
    load(dsa_, dremoved, place, first, steps);
    load(r_, r, place, first, steps);
    load(w_, log_w, place, first, steps);
    load(k_, k, place, first, steps);
    load(a_, a, place, first, steps);
    load(b_, b, place, first, steps);
    for (int t = 0; t < C; t++) w_[t][j] = expf(w_[t][j]);  // its own channel: nobody waits
    __syncthreads();
    const float* start = square(starts, head, chunks, chunk, N);
    const float* dend = square(dends, head, chunks, chunk, N);
    float sums[5][C] = {};  // over rows: of r, a, b, k, w
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
                sums[1][t] += s[i] * dsa_[t][top + i];
                s[i] = s[i] * w_[t][j] + sa_[t][top + i] * b_[t][j] + v_[t][top + i] * k_[t][j];
                sums[0][t] += s[i] * dy_[t][top + i];
            }
        }
#pragma unroll
        for (int t = C - 1; t >= 0; t--) {
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                ds[i] += dy_[t][top + i] * r_[t][j];
                sums[2][t] += ds[i] * sa_[t][top + i];
                sums[3][t] += ds[i] * v_[t][top + i];
                sums[4][t] += ds[i] * before[t][i];
                ds[i] = ds[i] * w_[t][j] + dsa_[t][top + i] * a_[t][j];
            }
        }
    }
#pragma unroll
    for (int t = 0; t < C; t++) {
        if (t >= steps) continue;
        const long long at = place(first + t) + j;
        put(dr + at, sums[0][t]);
        put(da + at, sums[1][t]);
        put(db + at, sums[2][t]);
        put(dk + at, sums[3][t]);
        dlog_w[at] = sums[4][t] * w_[t][j];
    }
}

#include "entry.cuh"
