// Words: where they are and of what kind; those of the scripts alone.
#pragma once
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

struct Span {
    std::uint32_t first, last;  // code points [first, last)
};

// What measures ask of a part of speech: 名詞 (名詞,数詞 for itself), 補助記号, 空白, and all others. The numbers are
// those of pyjpllm/corpus/rules/sudachi.py.
enum class WordKind : std::uint8_t { kOther, kNoun, kNumeral, kMark, kBlank };
constexpr std::size_t kWordKinds = 5;

struct Word : Span {
    WordKind kind;
};

// Runs of one script: hiragana, katakana, kanji, other letters, digits; every other character is a word by itself, and
// white space is none. ー and the marks of kana go on with the run they are in. Scripts tell no part of speech: the
// kind is always kOther.
void script_words(Codes text, std::vector<Word>& into);

}  // namespace jpllm::text
