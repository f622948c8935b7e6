// Probes: bindings.
#include "arrays.h"

namespace {

double fma_peak(double seconds, int threads) {
    double flops = 0;
    run("fma_peak", [&] { return jpllm_fma_peak(seconds, threads, &flops); });
    return flops;
}

}  // namespace

void bind_probe(py::module_& m) {
    using namespace py::literals;
    m.def("fma_peak", &fma_peak, "FP32 multiply-add peak in flop a second of CPU time, summed over the threads.",
          "seconds"_a = 0.2, "threads"_a = 1);
}
