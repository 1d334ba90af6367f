// The functions that Python calls, for the one type and head size that the compiler is told (TYPE, WIDTH).

extern "C" int launch(int pass, int B, int T, int H, void** p, void* stream) {
    return run<TYPE, WIDTH>(pass, B, T, H, p, (cudaStream_t)stream);
}

extern "C" const char* explain(int code) { return cudaGetErrorString((cudaError_t)code); }
