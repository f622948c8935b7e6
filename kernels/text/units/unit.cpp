// MinHash's loop for one instruction set: JPLLM_TEXT_UNIT names the function, the compiler's flags are the set's own.
#include "text/units/lower.h"

namespace jpllm::text {

void JPLLM_TEXT_UNIT(const std::uint32_t* x, std::size_t count, const std::uint32_t* a, const std::uint32_t* b,
                     std::size_t functions, std::uint32_t* low) {
    lower_loop(x, count, a, b, functions, low);
}

}  // namespace jpllm::text
