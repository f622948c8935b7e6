// The names of the measures, and the order of the work.
#include "text/measures.h"

#include <utility>

namespace jpllm::text {
namespace {

struct Entry {
    const char* name;
    Group group;
};

constexpr Entry kEntries[] = {
#define X(name) {#name, kCharacterGroup},
    JPLLM_CHARACTER_MEASURES(X)
#undef X
#define X(name) {#name, kLineGroup},
        JPLLM_LINE_MEASURES(X)
#undef X
#define X(name) {#name, kSentenceGroup},
            JPLLM_SENTENCE_MEASURES(X)
#undef X
#define X(name) {#name, kNgramGroup},
                JPLLM_NGRAM_MEASURES(X)
#undef X
#define X(name) {#name, kWordGroup},
                    JPLLM_WORD_MEASURES(X)
#undef X
};

}  // namespace

const char* name_of(Measure measure) { return kEntries[measure].name; }

Group group_of(Measure measure) { return kEntries[measure].group; }

Measurer::Measurer(unsigned wanted, std::size_t longest, std::vector<std::vector<Code>> stop_words)
    : wanted_(wanted), longest_(longest), stop_words_(std::move(stop_words)) {}

const std::array<double, kMeasures>& Measurer::measure(Codes text, const std::vector<Word>* words) {
    // The words' measures count hashes, ellipses and newlines as the characters' and the lines' do.
    const bool by_word = (wanted_ & kWordGroup) != 0;
    values_.fill(0);
    if ((wanted_ & kCharacterGroup) || by_word) {
        measure_characters(text);
        measure_marks(text);
    }
    if ((wanted_ & kLineGroup) || by_word) {
        measure_lines(text);
        measure_ends(text);
        measure_blocks(text);
    }
    if (wanted_ & kSentenceGroup) measure_sentences(text);
    if (wanted_ & kNgramGroup) measure_ngrams(text);
    if (by_word) {
        if (words == nullptr) {
            script_words(text, words_);
            words = &words_;
        }
        measure_words(text, *words);
        measure_word_ngrams(text, *words);
    }
    return values_;
}

}  // namespace jpllm::text
