// The functions that Python calls, for the one type and head size that the compiler is told (TYPE, WIDTH).

#include <utility>

// A kernel with the pointers p in the order of its arguments. Null: not wanted.
template <typename... P, size_t... I>
static void start(void (*kernel)(int, int, P...), dim3 blocks, int T, int H, void** p, cudaStream_t stream,
                  std::index_sequence<I...>) {
    LAUNCH(kernel, blocks, WIDTH, stream, T, H, (P)p[I]...);
}

template <typename... P>
static void start(void (*kernel)(int, int, P...), dim3 blocks, int T, int H, void** p, cudaStream_t stream) {
    start(kernel, blocks, T, H, p, stream, std::index_sequence_for<P...>());
}

extern "C" int launch(int pass, int B, int T, int H, void** p, void* stream) {
    const dim3 heads(B * H), chunks(B * H, (T + C - 1) / C);
    if (pass == 0)
        start(forward<TYPE, WIDTH>, heads, T, H, p, (cudaStream_t)stream);
    else if (pass == 1)
        start(reverse<TYPE, WIDTH>, heads, T, H, p, (cudaStream_t)stream);
    else
        start(columns<TYPE, WIDTH>, chunks, T, H, p, (cudaStream_t)stream);
    return (int)cudaGetLastError();
}

extern "C" const char* explain(int code) { return cudaGetErrorString((cudaError_t)code); }
