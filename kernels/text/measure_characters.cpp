// Measures of the characters: how many there are of each class, runs of one, and marks of some characters.
#include <algorithm>

#include "text/classes.h"
#include "text/measures.h"

namespace jpllm::text {
namespace {

constexpr Code kKuten = 0x3002, kEllipsis = 0x2026;
constexpr std::size_t kFirst = 50;

// One step a character: what kind it is of; there are fewer kinds than 256 (sets of classes that occur).
struct Counts {
    std::uint32_t of_kind[256] = {};

    explicit Counts(Codes text) {
        const std::uint8_t* kind = kind_table();
        std::uint32_t odd[256] = {};  // two tables: a run of one kind does not wait for its own last addition
        std::size_t i = 0;
        for (; i + 1 < text.size; i += 2) {
            of_kind[kind[text[i]]] += 1;
            odd[kind[text[i + 1]]] += 1;
        }
        if (i < text.size) of_kind[kind[text[i]]] += 1;
        for (int k = 0; k < 256; ++k) of_kind[k] += odd[k];
    }

    std::size_t any_of(unsigned classes) const {
        const std::vector<std::uint16_t>& sets = kinds();
        std::size_t sum = 0;
        for (std::size_t k = 0; k < sets.size(); ++k) {
            if (sets[k] & classes) sum += of_kind[k];
        }
        return sum;
    }
};

std::size_t count_of(Codes text, Code code) {
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), code));
}

std::size_t longest_run(Codes text) {
    std::size_t longest = text.size > 0, run = 1;
    for (std::size_t i = 1; i < text.size; ++i) {
        run = text[i] == text[i - 1] ? run + 1 : 1;
        longest = std::max(longest, run);
    }
    return longest;
}

// As str.count("..."): from left to right, none within another.
std::size_t three_dots(Codes text) {
    std::size_t count = 0;
    for (const Code* at = text.begin(); (at = std::find(at, text.end(), '.')) != text.end();) {
        const Code* last = at;
        while (last != text.end() && *last == '.') ++last;
        count += static_cast<std::size_t>(last - at) / 3;
        at = last;
    }
    return count;
}

}  // namespace

void Measurer::measure_characters(Codes text) {
    const Counts counts(text);
    const std::size_t n = text.size;
    const std::size_t hiragana = counts.any_of(kHiragana), katakana = counts.any_of(kKatakana);
    const std::size_t kanji = counts.any_of(kKanji), kuten = count_of(text, kKuten);
    const std::size_t ends = kuten + count_of(text, 0xFF0E) + count_of(text, 0xFF01) + count_of(text, 0xFF1F);
    const std::size_t commas = count_of(text, 0x3001) + count_of(text, 0xFF0C);
    const std::size_t japanese = hiragana + katakana + kanji + ends + commas;
    const auto put = [&](Measure measure, std::size_t value) { values_[measure] = static_cast<double>(value); };
    put(k_characters, n);
    put(k_japanese_letters, japanese);
    put(k_hiragana, hiragana);
    put(k_katakana, katakana);
    put(k_kanji, kanji);
    put(k_letters, counts.any_of(kLetter));
    put(k_digits, counts.any_of(kDigit));
    put(k_punctuation, counts.any_of(kPunct));
    put(k_symbols, counts.any_of(kSymbol));
    put(k_spaces, counts.any_of(kSpace));
    put(k_full_width, counts.any_of(kFullWidth));
    put(k_half_width_kana, counts.any_of(kHalfKana));
    values_[k_japanese_fraction] = share(japanese, n);
    values_[k_hiragana_of_japanese] = share(hiragana, japanese);
    values_[k_katakana_of_japanese] = share(katakana, japanese);
    values_[k_kanji_of_japanese] = share(kanji, japanese);
    values_[k_hiragana_fraction] = share(hiragana, n);
    values_[k_letter_fraction] = share(counts.any_of(kLetter), n);
    values_[k_digit_fraction] = share(counts.any_of(kDigit), n);
    values_[k_punctuation_fraction] = share(counts.any_of(kPunct), n);
    values_[k_special_fraction] = share(counts.any_of(kPunct | kSymbol | kSpace), n);
    values_[k_kuten_fraction] = share(kuten, n);
    put(k_kana_in_first_50, Counts(text.part(0, std::min(n, kFirst))).any_of(kHiragana | kKatakana));
    put(k_longest_run, longest_run(text));
    put(k_hashes, count_of(text, '#'));
    put(k_ellipses, three_dots(text) + count_of(text, kEllipsis));
}

}  // namespace jpllm::text
