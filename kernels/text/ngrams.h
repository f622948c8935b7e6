// N-grams of a sequence, from one length to the next: an n-gram that occurs twice begins with an (n-1)-gram that does,
// so each length looks only at the places that the one before left, and the work soon is little. Exact: a key is the
// pair (number of the (n-1)-gram, next item).
#pragma once
#include <cstdint>
#include <vector>

#include "text/intern.h"

namespace jpllm::text {

class Ngrams {
public:
    // The sequence must stay where it is. Begins at length 1.
    void begin(const std::uint32_t* items, std::size_t size);
    // From length n to n + 1.
    void advance();

    std::size_t length() const { return length_; }
    // All n-grams, by occurrence.
    std::size_t occurrences() const { return size_ < length_ ? 0 : size_ - length_ + 1; }
    // Different n-grams.
    std::size_t types() const { return counts_.size() + (occurrences() - places_.size()); }

    // How often the commonest one occurs, and where it occurs first; of several, the one that comes first.
    struct Top {
        std::size_t count, place;
    };
    Top top() const;
    // Different n-grams that occur more than once, and all their occurrences.
    struct Repeated {
        std::size_t types, occurrences;
    };
    Repeated repeated() const;
    // The occurrences of the `most` commonest among those that occur more than once.
    std::size_t commonest(std::size_t most) const;

    // Places, from left to right, whose n-gram may occur more than once; every other n-gram is alone.
    const std::vector<std::uint32_t>& places() const { return places_; }
    // The number of the n-gram at each of them.
    const std::vector<std::uint32_t>& numbers() const { return numbers_; }
    const std::vector<std::uint32_t>& counts() const { return counts_; }

private:
    void count(std::uint32_t number) {
        if (number == counts_.size()) counts_.push_back(0);
        counts_[number] += 1;
    }

    const std::uint32_t* items_ = nullptr;
    std::size_t size_ = 0, length_ = 0;
    KeyTable table_;
    std::vector<std::uint32_t> places_, numbers_, counts_, before_;
};

}  // namespace jpllm::text
