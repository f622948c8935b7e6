// Classes of characters as bits, looked up in one table of all code points. Made from unicode_ranges.h and the ranges
// of the scripts below; the same under every Python and system.
#pragma once
#include <cstdint>
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

enum Class : std::uint16_t {
    kHiragana = 1 << 0,      // U+3041-3096
    kKatakana = 1 << 1,      // U+30A1-30FA
    kKanji = 1 << 2,         // U+3400-9FFF, F900-FAFF, 20000-2FFFF, and 々 〇 〻
    kLetter = 1 << 3,        // str.isalpha
    kDigit = 1 << 4,         // str.isdecimal
    kPunct = 1 << 5,         // general category P*
    kSymbol = 1 << 6,        // general category S*
    kSpace = 1 << 7,         // str.isspace
    kAlphanumeric = 1 << 8,  // str.isalnum
    kFullWidth = 1 << 9,     // U+FF01-FF60 and FFE0-FFE6
    kHalfKana = 1 << 10,     // U+FF66-FF9F
    kControl = 1 << 11,      // U+0000-001F and 007F-009F
    kKutenLike = 1 << 12,    // 。 ． ！ ？ ! ?: what ends a sentence
    kTerminal = 1 << 13,     // what may end a line of prose: kTerminals in classes.cpp
    kLineBreak = 1 << 14,    // where str.splitlines breaks
    kLongVowel = 1 << 15,    // ー and the iteration marks of kana: they go on with the run they are in
};

// The table, U+0000 to U+10FFFF; made on first use.
const std::uint16_t* class_table();

// The sets of classes that occur, and for every code point which of them is its own.
const std::vector<std::uint16_t>& kinds();
const std::uint8_t* kind_table();

}  // namespace jpllm::text
