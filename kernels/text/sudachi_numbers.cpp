// Numerals that make one number.
#include "text/sudachi_numbers.h"

namespace jpllm::text {
namespace {

// Figures by their value; units by how many zeros they stand for, below 0. 10 for what is neither.
int value_of(Code code) {
    if (code >= '0' && code <= '9') return static_cast<int>(code - '0');
    constexpr char32_t figures[] = U"〇一二三四五六七八九";
    for (int i = 0; i < 10; ++i) {
        if (code == figures[i]) return i;
    }
    switch (code) {
        case U'十':
            return -1;
        case U'百':
            return -2;
        case U'千':
            return -3;
        case U'万':
            return -4;
        case U'億':
            return -8;
        case U'兆':
            return -12;
        default:
            return 10;
    }
}

}  // namespace

// The point moves right over the zeros, or goes where they reach behind the last figure.
void SudachiNumber::Part::settle() {
    if (point < 0) return;
    const long behind = figures - point;
    if (behind > zeros) {
        point += zeros;
        zeros = 0;
    } else {
        zeros -= behind;
        point = -1;
    }
}

// Puts a lower part into the zeros of this one. False if it is longer than they are.
bool SudachiNumber::Part::take(Part& lower) {
    if (lower.figures == 0) return true;
    if (figures == 0) {
        figures = lower.figures;
        zeros = lower.zeros;
        point = lower.point;
        return true;
    }
    settle();
    lower.settle();
    const long length = lower.point >= 0 ? lower.point : lower.figures + lower.zeros;
    if (zeros < length) return false;
    figures += zeros - length;
    if (lower.point >= 0) point = figures + lower.point;
    figures += lower.figures;
    zeros = lower.zeros;
    return true;
}

bool SudachiNumber::comma_may_stand() const {
    if (first_) return false;
    return comma_ ? figures_ == 3 : figures_ <= 3 && low_.figures > 0 && !low_.only_zeros;
}

bool SudachiNumber::add(Code code) {
    if (code == '.') {
        hanging_point_ = true;
        if (!first_ && comma_ && !comma_may_stand()) {
            fault_ = Fault::kComma;
            return false;
        }
        if (first_ || low_.zeros != 0 || low_.point >= 0) {
            fault_ = Fault::kPoint;
            return false;
        }
        low_.point = low_.figures;
        comma_ = false;
        return true;
    }
    if (code == ',') {
        if (!comma_may_stand()) {
            fault_ = Fault::kComma;
            return false;
        }
        comma_ = true;
        figures_ = 0;
        return true;
    }
    const int value = value_of(code);
    if (value == 10) return false;
    if (value >= 0) {
        low_.figures += 1;
        low_.only_zeros = low_.only_zeros && value == 0;
        first_ = false;
        figures_ += 1;
        hanging_point_ = false;
        return true;
    }
    if (value >= -3) {
        low_.scale(-value);
        if (!middle_.take(low_)) return false;
    } else {
        if (!middle_.take(low_) || middle_.figures == 0) return false;
        middle_.scale(-value);
        if (!total_.take(middle_)) return false;
        middle_ = {};
    }
    low_ = {};
    first_ = true;
    figures_ = 0;
    comma_ = false;
    return true;
}

bool SudachiNumber::finish() {
    const bool whole = middle_.take(low_) && total_.take(middle_);
    if (hanging_point_) {
        fault_ = Fault::kPoint;
        return false;
    }
    if (comma_ && figures_ != 3) {
        fault_ = Fault::kComma;
        return false;
    }
    return whole;
}

}  // namespace jpllm::text
