// The cheapest way through all words that a text may be cut into (Viterbi), as Sudachi finds it: words of the
// dictionary, and words that it has not, by the categories of their characters.
#pragma once
#include <vector>

#include "text/sudachi_dictionary.h"
#include "text/sudachi_input.h"

namespace jpllm::text {

// unk.def and the first lines of char.def, for one category.
struct SudachiUnknown {
    struct Kind {
        std::uint16_t left, right;
        std::int16_t cost;
        WordKind word;
    };
    std::uint32_t category;
    bool always;          // also where the dictionary has a word
    bool group;           // a run of the category as one word
    std::size_t longest;  // words of 1 to so many characters
    std::vector<Kind> kinds;
};

// The number of a word that the dictionary has not says its kind.
constexpr std::uint32_t kUnknown = 0xFFFFFF00;
constexpr std::uint32_t unknown_id(WordKind kind) { return kUnknown | static_cast<std::uint32_t>(kind); }

// A word of the path: characters [first, last) of the input.
struct SudachiWord {
    std::uint32_t first, last;
    std::uint32_t id;  // of the dictionary; or unknown_id
    bool whole;        // not cut into its short units
};

class SudachiLattice {
public:
    // `unknown` in the order of the categories' bits; `single` is what is taken where nothing else is.
    SudachiLattice(const SudachiDictionary& dictionary, std::vector<SudachiUnknown> unknown,
                   SudachiUnknown::Kind single);

    // The words of the cheapest path, from left to right.
    void best_path(const SudachiInput& input, std::vector<SudachiWord>& path);
    // The word of [first, last) with the lowest cost of its own, of those that the last call saw; false if there is
    // none.
    bool word_between(std::size_t first, std::size_t last, SudachiWord& found) const;

private:
    struct Node {
        std::uint32_t before, first, last, id;
        std::int16_t cost;
    };
    // A node as those behind it see it. Of nodes with one right number, only the cheapest can be on a path.
    struct End {
        std::int32_t total;
        std::uint32_t node;
        std::uint16_t right;
    };
    struct Reached {
        std::int32_t total;
        std::uint32_t node;
        std::uint16_t left;
    };

    void words_at(const SudachiInput& input, std::size_t at);
    void unknown_at(const SudachiInput& input, std::size_t at, bool known);
    void add(std::size_t first, std::size_t last, std::uint16_t left, std::uint16_t right, std::int16_t cost,
             std::uint32_t id);
    const Reached& reach(std::size_t at, std::uint16_t left);

    const SudachiDictionary& dictionary_;
    const std::vector<SudachiUnknown> unknown_;
    const SudachiUnknown::Kind single_;
    std::vector<Node> nodes_;
    std::vector<std::vector<End>> ends_;
    std::vector<std::uint32_t> begins_;  // where the nodes of each character begin; the end too
    std::vector<Reached> reached_;       // of the character that is worked on
    bool any_ = false;
};

}  // namespace jpllm::text
