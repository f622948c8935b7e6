// Cuts a text into Sudachi's short units (mode A), the words that datatrove measures Japanese with.
#pragma once
#include <vector>

#include "text/sudachi_lattice.h"
#include "text/sudachi_numbers.h"
#include "text/words.h"

namespace jpllm::text {

class SudachiWords {
public:
    SudachiWords(const SudachiDictionary& dictionary, SudachiRewriting rewriting, std::vector<SudachiUnknown> unknown,
                 SudachiUnknown::Kind single, std::size_t shortest_katakana, WordKind joined_katakana);

    // Words of the text, white space left out and stripped. The text is analysed in pieces of at most 40,000 bytes of
    // UTF-8, as datatrove does. Throws std::runtime_error for a dictionary that is damaged.
    void cut(Codes text, std::vector<Word>& into);

private:
    void cut_piece(Codes text, std::size_t first, std::size_t last, std::vector<Word>& into);
    void join_numbers();
    bool join_number(std::size_t first, std::size_t last);
    void join_katakana();
    bool is_katakana(const SudachiWord& word) const;
    WordKind kind(const SudachiWord& word) const;
    void normalised(const SudachiWord& word, std::vector<Code>& into) const;
    void replace(std::size_t first, std::size_t last, SudachiWord word);
    void put(Codes text, std::size_t offset, std::size_t first, std::size_t last, WordKind kind,
             std::vector<Word>& into) const;

    const SudachiDictionary& dictionary_;
    SudachiInput input_;
    SudachiLattice lattice_;
    const std::size_t shortest_katakana_;
    const WordKind joined_katakana_;
    std::vector<SudachiWord> path_;
    SudachiNumber number_;
    std::vector<Code> form_;
};

}  // namespace jpllm::text
