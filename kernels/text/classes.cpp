// The table of character classes.
#include "text/classes.h"

#include <vector>

#include "text/unicode_ranges.h"

namespace jpllm::text {
namespace {

constexpr std::size_t kCodes = 0x110000;

constexpr Range kHiraganaRanges[] = {{0x3041, 0x3096}};
constexpr Range kKatakanaRanges[] = {{0x30A1, 0x30FA}};
constexpr Range kKanjiRanges[] = {{0x3005, 0x3005}, {0x3007, 0x3007}, {0x303B, 0x303B},
                                  {0x3400, 0x9FFF}, {0xF900, 0xFAFF}, {0x20000, 0x2FFFF}};
constexpr Range kFullWidthRanges[] = {{0xFF01, 0xFF60}, {0xFFE0, 0xFFE6}};
constexpr Range kHalfKanaRanges[] = {{0xFF66, 0xFF9F}};
constexpr Range kControlRanges[] = {{0x00, 0x1F}, {0x7F, 0x9F}};
constexpr Range kKutenRanges[] = {{0x21, 0x21},     {0x3F, 0x3F},     {0x3002, 0x3002},
                                  {0xFF01, 0xFF01}, {0xFF0E, 0xFF0E}, {0xFF1F, 0xFF1F}};
// Unicode's Sentence_Terminal among the scripts that Japanese pages hold: Latin, general and CJK punctuation, small and
// full-width forms.
constexpr Range kTerminals[] = {{0x21, 0x21},     {0x2E, 0x2E},     {0x3F, 0x3F},     {0x203C, 0x203D},
                                {0x2047, 0x2049}, {0x3002, 0x3002}, {0xFE52, 0xFE52}, {0xFE56, 0xFE57},
                                {0xFF01, 0xFF01}, {0xFF0E, 0xFF0E}, {0xFF1F, 0xFF1F}, {0xFF61, 0xFF61}};
constexpr Range kLineBreaks[] = {{0x0A, 0x0D}, {0x1C, 0x1E}, {0x85, 0x85}, {0x2028, 0x2029}};
constexpr Range kLongVowels[] = {{0x309D, 0x309E}, {0x30FC, 0x30FE}, {0xFF70, 0xFF70}};

template <std::size_t N>
void mark(std::vector<std::uint16_t>& table, const Range (&ranges)[N], Class as) {
    for (const Range& range : ranges) {
        for (std::uint32_t code = range.first; code <= range.last; ++code) table[code] |= as;
    }
}

std::vector<std::uint16_t> make_classes() {
    std::vector<std::uint16_t> table(kCodes, 0);
    mark(table, kHiraganaRanges, kHiragana);
    mark(table, kKatakanaRanges, kKatakana);
    mark(table, kKanjiRanges, kKanji);
    mark(table, kLetters, kLetter);
    mark(table, kDigits, kDigit);
    mark(table, kPunctuation, kPunct);
    mark(table, kSymbols, kSymbol);
    mark(table, kSpaces, kSpace);
    mark(table, kNumeric, kAlphanumeric);
    mark(table, kFullWidthRanges, kFullWidth);
    mark(table, kHalfKanaRanges, kHalfKana);
    mark(table, kControlRanges, kControl);
    mark(table, kKutenRanges, kKutenLike);
    mark(table, kTerminals, kTerminal);
    mark(table, kLineBreaks, kLineBreak);
    mark(table, kLongVowels, kLongVowel);
    return table;
}

struct Kinds {
    std::vector<std::uint16_t> sets;
    std::vector<std::uint8_t> of_code;
};

const Kinds& all_kinds() {
    static const Kinds made = [] {
        Kinds out;
        std::vector<std::int16_t> number(1 << 16, -1);
        const std::uint16_t* classes = class_table();
        for (std::size_t code = 0; code < kCodes; ++code) {
            std::int16_t& kind = number[classes[code]];
            if (kind < 0) {
                kind = static_cast<std::int16_t>(out.sets.size());
                out.sets.push_back(classes[code]);
            }
            out.of_code.push_back(static_cast<std::uint8_t>(kind));
        }
        return out;
    }();
    return made;
}

}  // namespace

const std::uint16_t* class_table() {
    static const std::vector<std::uint16_t> table = make_classes();
    return table.data();
}

const std::vector<std::uint16_t>& kinds() { return all_kinds().sets; }

const std::uint8_t* kind_table() { return all_kinds().of_code.data(); }

}  // namespace jpllm::text
