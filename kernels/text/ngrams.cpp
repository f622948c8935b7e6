// N-grams from one length to the next.
#include "text/ngrams.h"

#include <algorithm>
#include <functional>

namespace jpllm::text {

void Ngrams::begin(const std::uint32_t* items, std::size_t size) {
    items_ = items;
    size_ = size;
    length_ = 1;
    places_.resize(size);
    numbers_.resize(size);
    counts_.clear();
    table_.reset(size);
    for (std::size_t i = 0; i < size; ++i) {
        places_[i] = static_cast<std::uint32_t>(i);
        count(numbers_[i] = table_.add(items[i]));
    }
}

void Ngrams::advance() {
    length_ += 1;
    before_.swap(counts_);
    counts_.clear();
    std::size_t kept = 0;
    for (std::size_t k = 0; k < places_.size(); ++k) {
        if (before_[numbers_[k]] < 2 || places_[k] + length_ > size_) continue;
        places_[kept] = places_[k];
        numbers_[kept++] = numbers_[k];
    }
    places_.resize(kept);
    numbers_.resize(kept);
    table_.reset(kept);
    for (std::size_t k = 0; k < kept; ++k) {
        const std::uint64_t next = items_[places_[k] + length_ - 1];
        count(numbers_[k] = table_.add(static_cast<std::uint64_t>(numbers_[k]) << 32 | next));
    }
}

Ngrams::Top Ngrams::top() const {
    if (occurrences() == 0) return {0, 0};
    std::uint32_t most = 1;
    for (const std::uint32_t n : counts_) most = std::max(most, n);
    if (most == 1) return {1, 0};  // all are alone, and the first is the one at the beginning
    std::size_t k = 0;
    while (counts_[numbers_[k]] != most) ++k;
    return {most, places_[k]};
}

Ngrams::Repeated Ngrams::repeated() const {
    Repeated out{0, 0};
    for (const std::uint32_t n : counts_) {
        if (n > 1) {
            out.types += 1;
            out.occurrences += n;
        }
    }
    return out;
}

std::size_t Ngrams::commonest(std::size_t most) const {
    std::vector<std::uint32_t> often;
    for (const std::uint32_t n : counts_) {
        if (n > 1) often.push_back(n);
    }
    if (often.size() > most) {
        std::nth_element(often.begin(), often.begin() + static_cast<std::ptrdiff_t>(most), often.end(),
                         std::greater<>());
        often.resize(most);
    }
    std::size_t sum = 0;
    for (const std::uint32_t n : often) sum += n;
    return sum;
}

}  // namespace jpllm::text
