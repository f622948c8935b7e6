// Probes: bindings.
#include "arrays.h"

namespace {

double fma_peak(double seconds, int threads) {
    double flops = 0;
    run("fma_peak", [&] { return jpllm_fma_peak(seconds, threads, &flops); });
    return flops;
}

py::tuple dot_peak(double seconds, int threads) {
    double flops = 0;
    int has_dot = 0;
    run("dot_peak", [&] { return jpllm_dot_peak(seconds, threads, &flops, &has_dot); });
    return py::make_tuple(flops, has_dot != 0);
}

double stream(const std::string& kind, bool past_caches, std::int64_t mebibytes, double seconds, int threads) {
    if (kind != "copy" && kind != "triad") fail("stream", "kind must be 'copy' or 'triad', is '" + kind + "'");
    if (mebibytes < 1 || mebibytes > (1 << 20))
        fail("stream", "mebibytes must be 1 to 1048576, is " + std::to_string(mebibytes));
    if (past_caches && jpllm_stream_has_past_caches() == 0) {
        fail("stream", std::string(jpllm_isa()) + " has no stores past the caches");
    }
    double rate = 0;
    run("stream", [&] {
        return jpllm_stream(kind == "copy" ? JPLLM_STREAM_COPY : JPLLM_STREAM_TRIAD, past_caches, mebibytes << 18,
                            seconds, threads, &rate);
    });
    return rate;
}

}  // namespace

void bind_probe(py::module_& m) {
    using namespace py::literals;
    m.def("fma_peak", &fma_peak, "FP32 multiply-add peak in flop a second of CPU time, summed over the threads.",
          "seconds"_a = 0.2, "threads"_a = 1);
    m.def("dot_peak", &dot_peak,
          "The same for BF16 products, and whether they are dot products of BF16 (else BF16 is converted to FP32).",
          "seconds"_a = 0.2, "threads"_a = 1);
    m.def("stream", &stream,
          "Memory bandwidth of `copy` or `triad` in bytes a second of CPU time, over arrays of so many mebibytes each.",
          "kind"_a, "past_caches"_a = false, "mebibytes"_a = 128, "seconds"_a = 0.5, "threads"_a = 1);
    m.def(
        "stream_has_past_caches", [] { return jpllm_stream_has_past_caches() != 0; },
        "Whether the instruction set in use has stores that do not read the lines they fill.");
}
