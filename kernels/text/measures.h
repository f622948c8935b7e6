// Every measure of a text that needs no model. tests/corpus/measures_reference.py has each in slow Python;
// docs/corpus-rules.md has the sources. A share of nothing is 0.
#pragma once
#include <array>
#include <vector>

#include "text/ngrams.h"
#include "text/words.h"

namespace jpllm::text {

// The measures in groups: a group is computed as a whole, or not at all.
// clang-format off
#define JPLLM_CHARACTER_MEASURES(X) \
    X(characters) X(japanese_letters) X(hiragana) X(katakana) X(kanji) X(letters) X(digits) X(punctuation) X(symbols) \
    X(spaces) X(full_width) X(half_width_kana) X(japanese_fraction) X(hiragana_of_japanese) X(katakana_of_japanese) \
    X(kanji_of_japanese) X(hiragana_fraction) X(letter_fraction) X(digit_fraction) X(punctuation_fraction) \
    X(special_fraction) X(kuten_fraction) X(kana_in_first_50) X(longest_run) X(hashes) X(ellipses) X(board_marks) \
    X(urls) X(url_fraction)
#define JPLLM_LINE_MEASURES(X) \
    X(lines) X(newlines) X(mean_line_length) X(lines_to_10_fraction) X(lines_to_30_fraction) \
    X(terminal_line_fraction) X(ellipsis_per_newline) X(ellipsis_line_fraction) X(bullet_line_fraction) \
    X(duplicate_line_fraction) X(duplicate_line_character_fraction) X(duplicate_prose_line_character_fraction) \
    X(duplicate_block_fraction) X(duplicate_block_character_fraction)
#define JPLLM_SENTENCE_MEASURES(X) \
    X(sentences) X(mean_sentence_length) X(max_sentence_length) X(ellipsis_sentence_fraction) \
    X(duplicate_sentence_fraction) X(duplicate_sentence_character_fraction) X(duplicate_paragraph_fraction) \
    X(duplicate_paragraph_character_fraction)
#define JPLLM_NGRAM_MEASURES(X) \
    X(top_2gram_fraction) X(top_3gram_fraction) X(top_4gram_fraction) X(duplicate_5gram_fraction) \
    X(duplicate_6gram_fraction) X(duplicate_7gram_fraction) X(duplicate_8gram_fraction) X(duplicate_9gram_fraction) \
    X(duplicate_10gram_fraction) X(duplicate_5gram_type_fraction) X(duplicate_6gram_type_fraction) \
    X(duplicate_7gram_type_fraction) X(duplicate_8gram_type_fraction) X(duplicate_9gram_type_fraction) \
    X(duplicate_10gram_type_fraction) X(commonest_5gram_fraction)
#define JPLLM_WORD_MEASURES(X) \
    X(words) X(prose_words) X(mean_word_length) X(letter_word_fraction) X(stop_words) X(hashes_per_word) \
    X(ellipses_per_word) X(newlines_per_word) X(top_2word_fraction) X(top_3word_fraction) X(top_4word_fraction) \
    X(duplicate_5word_fraction) X(duplicate_6word_fraction) X(duplicate_7word_fraction) X(duplicate_8word_fraction) \
    X(duplicate_9word_fraction) X(duplicate_10word_fraction) X(repeated_7word_fraction) X(noun_fraction)
// clang-format on

enum Measure : std::uint8_t {
#define X(name) k_##name,
    JPLLM_CHARACTER_MEASURES(X) JPLLM_LINE_MEASURES(X) JPLLM_SENTENCE_MEASURES(X) JPLLM_NGRAM_MEASURES(X)
        JPLLM_WORD_MEASURES(X)
#undef X
            kMeasures
};

enum Group : unsigned { kCharacterGroup = 1, kLineGroup = 2, kSentenceGroup = 4, kNgramGroup = 8, kWordGroup = 16 };

const char* name_of(Measure measure);
Group group_of(Measure measure);

inline double share(std::size_t part, std::size_t whole) {
    return whole == 0 ? 0. : static_cast<double>(part) / static_cast<double>(whole);
}

// What a document is measured with: the values, and the buffers that are kept from one to the next.
class Measurer {
public:
    // `wanted` as a set of groups. Stop words are given as texts; of n-grams of characters only those up to `longest`
    // (5 or 10) are counted.
    Measurer(unsigned wanted, std::size_t longest, std::vector<std::vector<Code>> stop_words);
    Measurer(const Measurer&) = delete;
    Measurer& operator=(const Measurer&) = delete;

    // Words: null for those of the scripts, of which noun_fraction says nothing. They must lie inside the text, one
    // behind the other.
    const std::array<double, kMeasures>& measure(Codes text, const std::vector<Word>* words);

private:
    void measure_characters(Codes text);
    void measure_marks(Codes text);
    void measure_lines(Codes text);
    void measure_ends(Codes text);
    void measure_blocks(Codes text);
    void measure_sentences(Codes text);
    void measure_ngrams(Codes text);
    void measure_words(Codes text, const std::vector<Word>& words);
    void measure_word_ngrams(Codes text, const std::vector<Word>& words);
    std::size_t repeated_word_characters(const std::vector<Word>& words);

    const unsigned wanted_;
    const std::size_t longest_;
    const std::vector<std::vector<Code>> stop_words_;
    std::array<double, kMeasures> values_{};
    Ngrams ngrams_;
    PieceTable pieces_, more_;
    std::vector<Code> kept_;
    std::vector<Span> spans_, paragraphs_;
    std::vector<Word> words_;
    std::vector<std::uint32_t> numbers_;
    std::vector<std::uint8_t> seen_;
};

}  // namespace jpllm::text
