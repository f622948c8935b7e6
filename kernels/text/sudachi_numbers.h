// Whether numerals, in figures and kanji, with points and commas, make one number: as Sudachi reads them.
#pragma once
#include <cstddef>

#include "text/codes.h"

namespace jpllm::text {

class SudachiNumber {
public:
    enum class Fault { kNone, kPoint, kComma };

    void clear() { *this = {}; }
    // False if no number goes on so.
    bool add(Code code);
    // Whether what was added is a whole number.
    bool finish();
    Fault fault() const { return fault_; }

private:
    // A part of a number: how many figures are written, how many zeros follow, and where the point is (-1: nowhere).
    struct Part {
        long figures = 0, zeros = 0, point = -1;
        bool only_zeros = true;

        void settle();
        bool take(Part& lower);
        void scale(long by) {
            if (figures == 0) figures = 1;  // 千 is 一千
            zeros += by;
        }
    };
    bool comma_may_stand() const;

    Part total_, middle_, low_;  // up to 兆, up to 千, up to 九
    std::size_t figures_ = 0;    // since the last comma or unit
    bool first_ = true, comma_ = false, hanging_point_ = false;
    Fault fault_ = Fault::kNone;
};

}  // namespace jpllm::text
