// A language model over characters: n-gram counts, and interpolated probabilities by Witten and Bell (1991, "The
// Zero-Frequency Problem"; in the form of S. F. Chen and J. Goodman 1999, "An Empirical Study of Smoothing Techniques
// for Language Modeling", section 2.6):
//
//     p(w | h) = (c(hw) + t(h) p(w | h')) / (c(h) + t(h))
//
// with c counts, t(h) the number of different characters that follow h, and h' = h without its first character. Below
// the empty context every character of Unicode has the same probability. Where rare n-grams are left out, what they
// had goes to the shorter context, so that the probabilities still sum to 1.
//
// An n-gram is known by the mixed 64-bit polynomial hash of its characters (rolling.h): two of N different ones are
// taken for one with a probability below N^2 / 2^65.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

constexpr std::size_t kLongestOrder = 16;
constexpr double kCharacters = 1112064;  // of Unicode: 17 planes without the surrogates

// A slot of the table of a finished model. Open addressing: a key begins to be looked for at its upper bits, and goes
// on to the next slot. Key 0 is an empty slot.
struct Slot {
    std::uint64_t key;
    float share;    // c(hw) / (c(h) + t(h)) of this n-gram hw
    float backoff;  // what this n-gram, as a context, leaves to the shorter one; negative: nothing follows it
};
static_assert(sizeof(Slot) == 16, "slots lie in files as they are in memory");

// The model: 2^bits slots, the order (the length of the longest n-gram), and what the empty context leaves to nothing.
struct LanguageModel {
    const Slot* slots;
    unsigned bits;
    std::size_t order;
    double backoff;
};

// log2 of the probability of a text, each character given the order - 1 before it; 0 for no text. Products in FP64 in
// the order of the text, so that it is the same bits on any machine but for one logarithm.
double log2_probability(Codes text, const LanguageModel& model);

// Counts of n-grams, from which a model is made.
class NgramCounter {
public:
    explicit NgramCounter(std::size_t order);
    // False, and nothing counted, when the counters could overflow: 2^32 - 1 characters or n-grams.
    bool add(Codes text);

    std::size_t grams() const { return size_ - 1; }
    std::uint64_t characters() const { return size_ == 0 ? 0 : gram(0).total; }
    // What is held, in bytes.
    std::size_t bytes() const;
    // The table of a model of the n-grams that occur min_count times, and of all of one and two characters; `kept` is
    // their number, `backoff` as in LanguageModel. The number of slots is a power of two.
    std::vector<Slot> table(std::uint32_t min_count, std::size_t& kept, double& backoff) const;

private:
    struct Gram {
        std::uint64_t key;
        std::uint32_t count;    // c(hw)
        std::uint32_t context;  // the number of h
        std::uint32_t total;    // c(h w) over all w: how often this one was a context
        std::uint32_t types;    // t: different characters that followed
        std::uint32_t length;
    };
    static constexpr unsigned kChunk = 16;  // n-grams lie in chunks of 2^16, so that they never move as they grow

    Gram& gram(std::size_t id) { return chunks_[id >> kChunk][id & ((1U << kChunk) - 1)]; }
    const Gram& gram(std::size_t id) const { return chunks_[id >> kChunk][id & ((1U << kChunk) - 1)]; }
    std::uint32_t find(std::uint64_t key, std::uint32_t context, std::uint32_t length);
    void append(const Gram& gram);
    void grow();

    const std::size_t order_;
    std::vector<std::unique_ptr<Gram[]>> chunks_;
    std::size_t size_ = 0;
    std::vector<std::uint64_t> index_;  // upper half: of the key; lower half: the number + 1, 0 for an empty place
    std::size_t mask_ = 0;
};

}  // namespace jpllm::text
