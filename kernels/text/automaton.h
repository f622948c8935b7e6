// Many words searched at once: one automaton (Aho and Corasick, Communications of the ACM 18, 1975) for all lists, in
// one pass over the text.
//
// Of a list, the matches are those that a search from left to right for the longest word finds, none within another's
// characters: each list by itself, whatever the others hold.
#pragma once
#include <cstdint>
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

class Automaton {
public:
    struct Word {
        std::vector<Code> text;  // not empty
        std::uint32_t list;
    };
    struct Match {
        std::size_t first, last;  // code points [first, last)
        std::uint32_t word;       // its place among the words given
    };

    // Words may come twice, also in different lists.
    Automaton(std::vector<Word> words, std::size_t lists);

    // All matches, list by list, from left to right. Time grows with the text and the matches; for words that lie one
    // in another, also with how deep they do.
    void find(Codes text, std::vector<std::vector<Match>>& by_list) const;

    std::size_t lists() const { return lists_; }

private:
    struct Node {
        std::uint32_t fail = 0;    // the node of the longest proper end that begins a word
        std::uint32_t output = 0;  // the first node on the way of fails, this one counted, that ends a word; 0: none
        std::uint32_t first_word = kNoWord;
    };
    static constexpr std::uint32_t kNoWord = 0xFFFFFFFF;

    std::uint32_t child(std::uint32_t node, std::uint32_t symbol) const;
    void add_child(std::uint32_t node, std::uint32_t symbol, std::uint32_t to);
    void grow();

    std::vector<Word> words_;
    std::size_t lists_;
    std::vector<std::uint32_t> symbols_;    // of every code point: its number among those that words hold, 0: none
    std::vector<std::uint32_t> from_root_;  // by symbol
    std::vector<Node> nodes_;
    std::vector<std::uint32_t> next_word_;  // the next word that ends at the same node
    std::vector<std::uint64_t> edge_keys_;  // node and symbol -> node, open addressing
    std::vector<std::uint32_t> edge_to_;
    std::size_t edges_ = 0;
};

}  // namespace jpllm::text
