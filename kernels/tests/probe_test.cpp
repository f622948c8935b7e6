// The probes: they measure something, at any size, and refuse what they cannot.
#include "support.h"

void test_probe() {
    double rate = 0;
    for (const jpllm_stream_kind kind : {JPLLM_STREAM_COPY, JPLLM_STREAM_TRIAD}) {
        for (const int past : {0, 1}) {
            for (const int64_t n : {int64_t{1}, int64_t{1000}, int64_t{100003}}) {
                rate = 0;
                expect(jpllm_stream(kind, past, n, 1e-6, 3, &rate) == JPLLM_OK && rate > 0, "stream");
            }
        }
    }
    expect(jpllm_stream(JPLLM_STREAM_COPY, 0, 0, 1, 1, &rate) == JPLLM_ERR_ARGUMENT, "a stream of nothing");
    expect(jpllm_stream(JPLLM_STREAM_COPY, 0, 8, 1, 1, nullptr) == JPLLM_ERR_ARGUMENT, "a stream without an answer");
    expect(jpllm_fma_peak(-1, 1, &rate) == JPLLM_ERR_ARGUMENT, "a peak of no time");
    double fma = 0, dot = 0;
    int has_dot = 0;
    expect(jpllm_fma_peak(1e-6, 1, &fma) == JPLLM_OK && fma > 0, "fma peak");
    expect(jpllm_dot_peak(1e-6, 1, &dot, &has_dot) == JPLLM_OK && dot > 0, "dot peak");
    expect(jpllm_dot_peak(0, 1, &dot, &has_dot) == JPLLM_ERR_ARGUMENT, "a dot peak of no time");
}
