// Words: where they are, by the scripts alone.
#pragma once
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

struct Span {
    std::uint32_t first, last;  // code points [first, last)
};

// Runs of one script: hiragana, katakana, kanji, other letters, digits; every other character is a word by itself, and
// white space is none. ー and the marks of kana go on with the run they are in.
void script_words(Codes text, std::vector<Span>& into);

}  // namespace jpllm::text
