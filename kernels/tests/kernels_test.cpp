// The kernels' own test program, without Python: every operation on every instruction set that this CPU runs, against
// plain loops in double precision, and the same bits on one thread and on three. It is what proves the SVE unit under
// an emulated A64FX:  qemu-aarch64-static -cpu a64fx -L /usr/aarch64-linux-gnu build/kernels_test sve512,scalar
// The argument, if given, is the list of instruction sets that must be here, or --choice: then the program only says
// which are here and which is in use.
#include "support.h"

int failures = 0, checks = 0;
std::string isa;

namespace {

void test_status() {
    float x[8] = {};
    const void* odd = reinterpret_cast<const char*>(x) + 1;
    expect(jpllm_gemm(JPLLM_FP64, 1, 1, 1, x, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_DTYPE, "dtype");
    expect(jpllm_gemm(JPLLM_FP32, -1, 1, 1, x, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_ARGUMENT, "size");
    expect(jpllm_gemm(JPLLM_FP32, 1, 1, 1, nullptr, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_ARGUMENT,
           "null");
    expect(jpllm_gemm(JPLLM_FP32, 1, 1, 1, odd, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_ALIGNMENT,
           "alignment");
    expect(jpllm_gemm(JPLLM_FP32, 2, 2, 1, x, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_ARGUMENT,
           "an output that overlaps itself");
    expect(jpllm_set_isa("mmx") == JPLLM_ERR_ISA, "unknown instruction set");
    expect(strlen(jpllm_status_string(JPLLM_ERR_ISA)) > 10, "status text");
}

// On aarch64 a kernel flushes denormals and leaves the caller's mode as it was.
void test_denormals() {
#if defined(__aarch64__)
    const auto mode = [] {
        uint64_t fpcr;
        asm volatile("mrs %0, fpcr" : "=r"(fpcr));
        return fpcr;
    };
    const uint64_t before = mode();
    const float tiny = 1e-40f, one = 1.0f;
    volatile float unknown = tiny;  // so that the compiler does not multiply
    float c[4] = {9, 9, 9, 9};
    for (const int threads : {1, 3}) {
        jpllm_gemm(JPLLM_FP32, 1, 1, 1, &tiny, 1, 1, &one, 1, 1, c, 1, 1, nullptr, 0, threads);
        expect(c[0] == 0.0f, "a denormal is flushed");
        expect(mode() == before && unknown * one != 0.0f, "the caller's mode comes back");
    }
#endif
}

bool in_list(const std::string& list, const std::string& word) {
    return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string here = jpllm_isas();
    printf("instruction sets: %s (built: %s); in use: %s; threads: %s\n", here.c_str(), jpllm_isas_built(), jpllm_isa(),
           jpllm_thread_runtime());
    const std::string wanted = argc > 1 ? argv[1] : here;
    if (wanted == "--choice") return 0;
    for (std::string rest = wanted + ","; !rest.empty(); rest.erase(0, rest.find(',') + 1)) {
        isa = rest.substr(0, rest.find(','));
        if (!in_list(here, isa)) {
            fprintf(stderr, "FAILED: %s is not among %s\n", isa.c_str(), here.c_str());
            return 1;
        }
        expect(jpllm_set_isa(isa.c_str()) == JPLLM_OK && isa == jpllm_isa(), "set_isa");
        checks = 0;
        test_gemm(), test_fp16_chunk(), test_int16(), test_attention(), test_fused(), test_embedding(), test_experts(),
            test_optimizer(), test_loss(), test_probe(), test_status(), test_denormals();
        printf("%s: %d checks\n", isa.c_str(), checks);
    }
    if (failures != 0) fprintf(stderr, "%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}
