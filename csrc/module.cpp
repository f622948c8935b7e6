// The Python module pyjpllm._native: checks arguments, lets go of the interpreter lock, calls the kernels. The
// functions are in bind_*.cpp; here is what the module says of itself.
#include <cstdlib>

#include "arrays.h"

namespace {

std::vector<std::string> split(const char* from, char by) {
    std::vector<std::string> out;
    std::string word;
    for (const char* p = from;; ++p) {
        if (*p == by || *p == '\0') {
            if (!word.empty()) out.push_back(word);
            word.clear();
            if (*p == '\0') return out;
        } else {
            word += *p;
        }
    }
}

std::string cannot_use(const std::string& name) {
    return "this CPU or build has no '" + name + "'; it has " + jpllm_isas() + " (built in: " + jpllm_isas_built() +
           ")";
}

void set_isa(const std::string& name) {
    if (jpllm_set_isa(name.c_str()) != JPLLM_OK) throw py::value_error("set_isa: " + cannot_use(name));
}

py::dict build_info() {
    py::dict info;
    info["compiler"] = JPLLM_COMPILER;
    info["processor"] = JPLLM_PROCESSOR;
    info["isas_built"] = split(jpllm_isas_built(), ',');
    info["thread_runtime"] = jpllm_thread_runtime();
    info["openmp_runtimes"] = split(jpllm_openmp_runtimes(), '\n');
    info["default_threads"] = jpllm_default_threads();
    return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "pyjpllm's compute kernels. An array is a tuple (address, shape, stride in elements, dtype name, owner).";
    if (jpllm_isa() == nullptr) {
        throw py::import_error("JPLLM_ISA: " + cannot_use(std::getenv("JPLLM_ISA")));
    }
    using namespace py::literals;
    bind_gemm(m);
    bind_attention(m);
    bind_fused(m);
    bind_experts(m);
    bind_loss(m);
    bind_probe(m);
    m.def("isa", [] { return std::string(jpllm_isa()); }, "The instruction set in use.");
    m.def("isas", [] { return split(jpllm_isas(), ','); }, "Those of this build that this CPU runs, best first.");
    m.def("set_isa", &set_isa, "Use this instruction set from now on; '' chooses as at load.", "name"_a);
    m.def("build_info", &build_info, "Compiler, instruction sets, thread runtime.");
}
