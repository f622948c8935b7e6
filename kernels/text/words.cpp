// Words by the scripts.
#include "text/words.h"

#include "text/classes.h"

namespace jpllm::text {
namespace {

enum Run { kSpaceRun, kOther, kHiraganaRun, kKatakanaRun, kKanjiRun, kLetterRun, kDigitRun };

Run run_of(std::uint16_t classes) {
    if (classes & kSpace) return kSpaceRun;
    if (classes & kHiragana) return kHiraganaRun;
    if (classes & (kKatakana | kHalfKana | kLongVowel)) return kKatakanaRun;
    if (classes & kKanji) return kKanjiRun;
    if (classes & kLetter) return kLetterRun;
    if (classes & kDigit) return kDigitRun;
    return kOther;
}

}  // namespace

void script_words(Codes text, std::vector<Word>& into) {
    const std::uint16_t* table = class_table();
    into.clear();
    Run current = kSpaceRun;
    for (std::size_t i = 0; i < text.size; ++i) {
        const std::uint16_t classes = table[text[i]];
        Run run = run_of(classes);
        if ((classes & kLongVowel) && (current == kHiraganaRun || current == kKatakanaRun)) run = current;
        const auto at = static_cast<std::uint32_t>(i);
        if (run != kSpaceRun) {
            if (run == current && run != kOther) {
                into.back().last = at + 1;
            } else {
                into.push_back({{at, at + 1}, WordKind::kOther});
            }
        }
        current = run;
    }
}

}  // namespace jpllm::text
