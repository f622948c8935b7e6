// Measures of n-grams, of characters and of words.
#include <algorithm>
#include <cmath>
#include <string_view>

#include "text/classes.h"
#include "text/measures.h"

namespace jpllm::text {
namespace {

Measure nth(Measure first, std::size_t step) { return static_cast<Measure>(first + step); }

std::size_t root(std::size_t n) {
    auto r = static_cast<std::size_t>(std::sqrt(static_cast<double>(n)));
    while (r * r > n) --r;
    while ((r + 1) * (r + 1) <= n) ++r;
    return r;
}

bool any(Codes word, unsigned classes) {
    return std::any_of(word.begin(), word.end(), [=](Code code) { return class_table()[code] & classes; });
}

bool all(Codes word, unsigned classes) {
    return std::all_of(word.begin(), word.end(), [=](Code code) { return class_table()[code] & classes; });
}

// ASCII marks that are 記号 for UniDic (unidic-lite 1.0.8), a kind of words, and 補助記号 for Sudachi.
bool unidic_symbols(Codes word) {
    constexpr std::u32string_view kSymbols = U"\"',-;[\\]^_`";
    return std::all_of(word.begin(), word.end(), [=](Code code) { return kSymbols.find(code) != kSymbols.npos; });
}

}  // namespace

void Measurer::measure_ngrams(Codes text) {
    ngrams_.begin(text.at, text.size);
    for (std::size_t n = 2; n <= longest_; ++n) {
        ngrams_.advance();
        const std::size_t occurrences = ngrams_.occurrences();
        if (n < 5) {
            values_[nth(k_top_2gram_fraction, n - 2)] = share(ngrams_.top().count, occurrences);
            continue;
        }
        const Ngrams::Repeated repeated = ngrams_.repeated();
        values_[nth(k_duplicate_5gram_fraction, n - 5)] = share(repeated.occurrences, occurrences);
        values_[nth(k_duplicate_5gram_type_fraction, n - 5)] = share(repeated.types, ngrams_.types());
        if (n == 5) {
            values_[k_commonest_5gram_fraction] = share(ngrams_.commonest(root(ngrams_.types())), occurrences);
        }
    }
}

void Measurer::measure_words(Codes text, const std::vector<Word>& words) {
    std::size_t prose = 0, prose_characters = 0, with_letters = 0, stops = 0;
    std::array<std::size_t, kWordKinds> kinds{};
    pieces_.reset(words.size());
    numbers_.clear();
    for (const Word& each : words) {
        const Codes word = text.part(each.first, each.last);
        const WordKind kind = each.kind == WordKind::kMark && unidic_symbols(word) ? WordKind::kOther : each.kind;
        kinds[static_cast<std::size_t>(kind)] += 1;
        numbers_.push_back(pieces_.add(word));
        with_letters += any(word, kLetter);
        if (all(word, kPunct | kSymbol | kControl)) continue;
        prose += 1;
        prose_characters += word.size;
    }
    for (const std::vector<Code>& stop : stop_words_) stops += pieces_.find({stop.data(), stop.size()}) != kNone;
    const std::size_t n = words.size();
    const auto of = [&kinds](WordKind kind) { return kinds[static_cast<std::size_t>(kind)]; };
    values_[k_noun_fraction] =
        share(of(WordKind::kNoun) + of(WordKind::kNumeral), n - of(WordKind::kMark) - of(WordKind::kBlank));
    values_[k_words] = static_cast<double>(n);
    values_[k_prose_words] = static_cast<double>(prose);
    values_[k_mean_word_length] = share(prose_characters, prose);
    values_[k_letter_word_fraction] = share(with_letters, n);
    values_[k_stop_words] = static_cast<double>(stops);
    values_[k_hashes_per_word] = n == 0 ? 0 : values_[k_hashes] / static_cast<double>(n);
    values_[k_ellipses_per_word] = n == 0 ? 0 : values_[k_ellipses] / static_cast<double>(n);
    values_[k_newlines_per_word] = n == 0 ? 0 : values_[k_newlines] / static_cast<double>(n);
}

void Measurer::measure_word_ngrams(Codes text, const std::vector<Word>& words) {
    ngrams_.begin(numbers_.data(), numbers_.size());
    for (std::size_t n = 2; n <= 10; ++n) {
        ngrams_.advance();
        if (n < 5) {
            const Ngrams::Top top = ngrams_.top();
            std::size_t length = n - 1;  // the words of an n-gram stand with a space between them
            for (std::size_t k = 0; top.count > 0 && k < n; ++k) {
                length += words[top.place + k].last - words[top.place + k].first;
            }
            values_[nth(k_top_2word_fraction, n - 2)] = share(top.count * length, text.size);
            continue;
        }
        values_[nth(k_duplicate_5word_fraction, n - 5)] = share(repeated_word_characters(words), text.size);
        if (n == 7) {
            values_[k_repeated_7word_fraction] = share(ngrams_.repeated().occurrences, ngrams_.occurrences());
        }
    }
}

// From left to right, the characters of each n-gram that was there before; behind one the search goes on, so that none
// counts twice. An n-gram inside such a stretch is not remembered.
std::size_t Measurer::repeated_word_characters(const std::vector<Word>& words) {
    const std::size_t n = ngrams_.length();
    const std::vector<std::uint32_t>&places = ngrams_.places(), &numbers = ngrams_.numbers();
    seen_.assign(ngrams_.counts().size(), 0);
    std::size_t characters = 0, from = 0;
    for (std::size_t k = 0; k < places.size(); ++k) {
        if (places[k] < from) continue;
        if (!seen_[numbers[k]]) {
            seen_[numbers[k]] = 1;
            continue;
        }
        for (std::size_t w = places[k]; w < places[k] + n; ++w) characters += words[w].last - words[w].first;
        from = places[k] + n;
    }
    return characters;
}

}  // namespace jpllm::text
