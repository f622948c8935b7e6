// What dispatch.cpp asks of threads.cpp.
#pragma once
#include <string>

namespace jpllm {

int default_threads();
std::string thread_runtime();
std::string openmp_runtimes();

}  // namespace jpllm
