// A text as Sudachi's lattice takes it: rewritten (small letters, NFKC, kana with their marks, runs of long vowel
// marks, readings in brackets), with the category of each character, and where each came from.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

// Categories of char.def as bits, in its order; the last two say where a word that no dictionary has may not begin: at
// such a character, and behind one.
enum Category : std::uint32_t {
    kDefaultCategory = 1 << 0,
    kSpaceCategory = 1 << 1,
    kKanjiCategory = 1 << 2,
    kSymbolCategory = 1 << 3,
    kNumericCategory = 1 << 4,
    kAlphaCategory = 1 << 5,
    kHiraganaCategory = 1 << 6,
    kKatakanaCategory = 1 << 7,
    kKanjiNumericCategory = 1 << 8,
    kGreekCategory = 1 << 9,
    kCyrillicCategory = 1 << 10,
    kNoUnknownBegin = 1u << 30,
    kNoUnknownEnd = 1u << 31,
};

// What sudachi.json and its files say, but for words that no dictionary has.
struct SudachiRewriting {
    std::vector<std::uint32_t> categories;                       // of every code point
    std::unordered_map<Code, std::vector<Code>> characters;      // what a character becomes
    std::unordered_map<std::uint64_t, std::vector<Code>> pairs;  // what two become: first << 32 | second
    std::vector<Code> long_vowels;                               // runs of them become the first
    std::vector<Code> left_brackets, right_brackets;
    std::size_t longest_reading = 0;
};

class SudachiInput {
public:
    explicit SudachiInput(SudachiRewriting rewriting);

    void set(Codes text);

    std::size_t size() const { return codes_.size(); }
    const std::string& utf8() const { return utf8_; }
    std::size_t byte_of(std::size_t i) const { return bytes_[i]; }                  // i <= size()
    std::size_t character_at(std::size_t byte) const { return characters_[byte]; }  // of its first byte; the end too
    std::size_t origin(std::size_t i) const { return origins_[i]; }                 // i <= size()
    std::uint32_t category(std::size_t i) const { return categories_[i]; }
    // The categories that all of them have.
    std::uint32_t common(std::size_t first, std::size_t last) const;
    // How many characters from here on have a category in common.
    std::size_t run(std::size_t i) const { return runs_[i]; }
    // Whether a word that no dictionary has may begin at a character: not at ー or behind a joiner.
    bool unknown_may_begin(std::size_t i) const {
        return !(categories_[i] & kNoUnknownBegin) && (i == 0 || !(categories_[i - 1] & kNoUnknownEnd));
    }
    // Whether a word of the dictionary may end before a character.
    bool may_cut(std::size_t i) const { return cuts_[i] != 0; }
    Codes codes() const { return {codes_.data(), codes_.size()}; }

private:
    void rewrite(Codes text);
    void join_long_vowels();
    void drop_readings();
    void measure();
    std::uint32_t of(Code code) const { return rewriting_.categories[code]; }

    SudachiRewriting rewriting_;
    std::vector<std::uint8_t> rewritten_;  // of every code point: what may be done with it, as bits
    std::vector<Code> codes_;
    std::vector<std::uint32_t> origins_, categories_, bytes_, characters_, runs_;
    std::vector<std::uint8_t> cuts_;
    std::string utf8_;
};

}  // namespace jpllm::text
