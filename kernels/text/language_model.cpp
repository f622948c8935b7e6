// A language model over characters.
#include "text/language_model.h"

#include <algorithm>
#include <cmath>

#include "text/rolling.h"

namespace jpllm::text {
namespace {

constexpr std::uint64_t kHigh = 0xffffffff00000000ULL;
constexpr float kNothingFollows = -1;

// The key of an n-gram whose polynomial is h. 0 marks an empty slot.
inline std::uint64_t key_of(std::uint64_t h) {
    const std::uint64_t key = mix(h);
    return key == 0 ? 1 : key;
}

// The polynomials of the n-grams that end at a character, by their length less one, from those of the one before.
inline void extend(std::uint64_t* h, std::size_t order, Code code) {
    for (std::size_t n = order - 1; n > 0; --n) h[n] = h[n - 1] * kGramFactor + code + 1;
    h[0] = std::uint64_t{code} + 1;
}

const Slot* look_up(const LanguageModel& model, std::uint64_t key) {
    const std::size_t mask = (std::size_t{1} << model.bits) - 1;
    std::size_t at = static_cast<std::size_t>(key >> (64 - model.bits));
    for (std::size_t tries = 0; tries <= mask; ++tries, at = (at + 1) & mask) {
        const Slot& slot = model.slots[at];
        if (slot.key == key) return &slot;
        if (slot.key == 0) return nullptr;
    }
    return nullptr;
}

}  // namespace

double log2_probability(Codes text, const LanguageModel& model) {
    constexpr std::size_t kBlock = 32;  // characters whose slots are fetched before the first is looked at
    constexpr double kTiny = 0x1p-400;  // a product below this is scaled up; no factor is below 2^-540
    const std::size_t order = model.order;
    std::uint64_t h[kLongestOrder], keys[kBlock * kLongestOrder];
    double before[kLongestOrder], after[kLongestOrder];  // backoffs by the context's length; negative: no such context
    before[0] = after[0] = model.backoff;
    std::fill_n(h, order, 0);
    std::fill(before + 1, before + kLongestOrder, -1.);
    double product = 1;
    std::int64_t scaled = 0;
    for (std::size_t start = 0; start < text.size; start += kBlock) {
        const std::size_t stop = std::min(text.size, start + kBlock);
        for (std::size_t i = start; i < stop; ++i) {
            extend(h, order, text[i]);
            for (std::size_t n = 0; n < std::min(order, i + 1); ++n) {
                const std::uint64_t key = keys[(i - start) * order + n] = key_of(h[n]);
                __builtin_prefetch(model.slots + (key >> (64 - model.bits)));
            }
        }
        for (std::size_t i = start; i < stop; ++i) {
            const std::uint64_t* const own = keys + (i - start) * order;
            double p = 1 / kCharacters;
            bool known = true;  // a longer n-gram is in the table only if the shorter one at its end is
            std::size_t n = 0;
            for (; n < std::min(order, i + 1) && before[n] >= 0; ++n) {
                const Slot* const slot = known ? look_up(model, own[n]) : nullptr;
                known = slot != nullptr;
                p *= before[n];
                if (known) p += static_cast<double>(slot->share);
                if (n + 1 < order) after[n + 1] = known ? static_cast<double>(slot->backoff) : -1;
            }
            for (++n; n < order; ++n) after[n] = -1;
            std::copy_n(after, order, before);
            product *= p;
            if (product < kTiny) {
                product *= 0x1p600;
                scaled += 600;
            }
        }
    }
    return std::log2(product) - static_cast<double>(scaled);
}

NgramCounter::NgramCounter(std::size_t order) : order_(order), index_(1 << 12), mask_(index_.size() - 1) {
    append({0, 0, 0, 0, 0, 0});  // the empty context
}

std::size_t NgramCounter::bytes() const {
    return (chunks_.size() << kChunk) * sizeof(Gram) + index_.size() * sizeof(index_[0]);
}

void NgramCounter::append(const Gram& one) {
    if (size_ >> kChunk == chunks_.size()) chunks_.push_back(std::make_unique<Gram[]>(std::size_t{1} << kChunk));
    gram(size_++) = one;
}

void NgramCounter::grow() {
    std::vector<std::uint64_t> larger(2 * index_.size());
    mask_ = larger.size() - 1;
    for (std::size_t id = 1; id < size_; ++id) {
        const std::uint64_t key = gram(id).key;
        std::size_t at = key & mask_;
        while (larger[at] != 0) at = (at + 1) & mask_;
        larger[at] = (key & kHigh) | (id + 1);
    }
    index_.swap(larger);
}

std::uint32_t NgramCounter::find(std::uint64_t key, std::uint32_t context, std::uint32_t length) {
    if (3 * size_ > 2 * index_.size()) grow();
    std::size_t at = key & mask_;
    for (; index_[at] != 0; at = (at + 1) & mask_) {
        const auto id = static_cast<std::uint32_t>(index_[at] - 1);
        if ((index_[at] & kHigh) == (key & kHigh) && gram(id).key == key) return id;
    }
    index_[at] = (key & kHigh) | (size_ + 1);
    append({key, 0, context, 0, 0, length});
    gram(context).types += 1;
    return static_cast<std::uint32_t>(size_ - 1);
}

bool NgramCounter::add(Codes text) {
    if (characters() + text.size >= 0xffffffff || size_ + text.size * order_ >= 0xffffffff) return false;
    std::uint64_t h[kLongestOrder] = {};
    std::uint32_t before[kLongestOrder] = {}, after[kLongestOrder] = {};  // n-grams that end here, by length
    for (std::size_t i = 0; i < text.size; ++i) {
        extend(h, order_, text[i]);
        for (std::size_t n = 0; n < std::min(order_, i + 1); ++n) {
            const std::uint32_t id = find(key_of(h[n]), before[n], static_cast<std::uint32_t>(n + 1));
            gram(id).count += 1;
            gram(before[n]).total += 1;
            if (n + 1 < order_) after[n + 1] = id;
        }
        std::copy_n(after, order_, before);
    }
    return true;
}

std::vector<Slot> NgramCounter::table(std::uint32_t min_count, std::size_t& kept, double& backoff) const {
    std::vector<std::uint32_t> held(size_);  // by context: the counts of what is kept behind it
    const auto is_kept = [min_count](const Gram& one) { return one.length <= 2 || one.count >= min_count; };
    kept = 0;
    for (std::size_t id = 1; id < size_; ++id) {
        if (!is_kept(gram(id))) continue;
        held[gram(id).context] += gram(id).count;
        ++kept;
    }
    const auto whole = [](const Gram& context) { return double{1} * context.total + context.types; };
    const auto left = [&](std::size_t id) { return (whole(gram(id)) - held[id]) / whole(gram(id)); };
    backoff = size_ > 1 ? left(0) : 1;
    unsigned bits = 4;
    while (3 * (std::size_t{1} << bits) < 4 * (kept + 1)) ++bits;
    std::vector<Slot> slots(std::size_t{1} << bits, Slot{0, 0, 0});
    std::vector<Slot> sorted;
    sorted.reserve(kept);
    for (std::size_t id = 1; id < size_; ++id) {
        const Gram& one = gram(id);
        if (!is_kept(one)) continue;
        sorted.push_back({one.key, static_cast<float>(one.count / whole(gram(one.context))),
                          held[id] == 0 ? kNothingFollows : static_cast<float>(left(id))});
    }
    std::sort(sorted.begin(), sorted.end(), [](const Slot& a, const Slot& b) { return a.key < b.key; });
    const std::size_t mask = slots.size() - 1;
    for (const Slot& slot : sorted) {
        std::size_t at = static_cast<std::size_t>(slot.key >> (64 - bits));
        while (slots[at].key != 0) at = (at + 1) & mask;
        slots[at] = slot;
    }
    return slots;
}

}  // namespace jpllm::text
