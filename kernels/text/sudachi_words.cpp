// From the cheapest path to words: numerals are joined, katakana that no dictionary has are joined, and words of the
// dictionary are cut into their short units.
#include "text/sudachi_words.h"

#include <algorithm>
#include <utility>

#include "text/classes.h"

namespace jpllm::text {
namespace {

constexpr std::size_t kMostBytes = 40'000;
constexpr std::uint32_t kNumerals = kNumericCategory | kKanjiNumericCategory;

std::size_t bytes_of(Code code) { return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4; }

bool unknown(const SudachiWord& word) { return word.id >= kUnknown; }

bool is_one(const std::vector<Code>& form, Code code) { return form.size() == 1 && form[0] == code; }

}  // namespace

SudachiWords::SudachiWords(const SudachiDictionary& dictionary, SudachiRewriting rewriting,
                           std::vector<SudachiUnknown> unknown, SudachiUnknown::Kind single,
                           std::size_t shortest_katakana, WordKind joined_katakana)
    : dictionary_(dictionary),
      input_(std::move(rewriting)),
      lattice_(dictionary, std::move(unknown), single),
      shortest_katakana_(shortest_katakana),
      joined_katakana_(joined_katakana) {}

void SudachiWords::cut(Codes text, std::vector<Word>& into) {
    into.clear();
    for (std::size_t first = 0; first < text.size;) {
        std::size_t last = first, bytes = 0;
        while (last < text.size && bytes + bytes_of(text[last]) <= kMostBytes) bytes += bytes_of(text[last++]);
        cut_piece(text, first, last, into);
        first = last;
    }
}

void SudachiWords::cut_piece(Codes text, std::size_t first, std::size_t last, std::vector<Word>& into) {
    input_.set(text.part(first, last));
    if (input_.size() == 0) return;
    lattice_.best_path(input_, path_);
    join_numbers();
    join_katakana();
    for (const SudachiWord& word : path_) {
        const std::size_t units = unknown(word) || word.whole ? 0 : dictionary_.short_units(word.id);
        if (units <= 1) {
            put(text, first, word.first, word.last, kind(word), into);
            continue;
        }
        std::size_t begin = word.first, i = 0;
        for (; i + 1 < units; ++i) {
            const std::uint32_t unit = dictionary_.short_unit(word.id, i);
            const std::size_t end = input_.byte_of(begin) + dictionary_.form_bytes(unit);
            if (end >= input_.byte_of(word.last)) break;
            put(text, first, begin, input_.character_at(end), dictionary_.kind(unit), into);
            begin = input_.character_at(end);
        }
        put(text, first, begin, word.last, dictionary_.kind(dictionary_.short_unit(word.id, i)), into);
    }
}

// Where a character has become several and they are several words, the first has it, and the others have nothing.
void SudachiWords::put(Codes text, std::size_t offset, std::size_t first, std::size_t last, WordKind kind,
                       std::vector<Word>& into) const {
    std::size_t begin = offset + input_.origin(first), end = offset + input_.origin(last);
    while (begin < end && (class_table()[text[begin]] & kSpace)) ++begin;
    while (end > begin && (class_table()[text[end - 1]] & kSpace)) --end;
    if (begin < end) into.push_back({{static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)}, kind});
}

WordKind SudachiWords::kind(const SudachiWord& word) const {
    return unknown(word) ? static_cast<WordKind>(word.id & 0xFFu) : dictionary_.kind(word.id);
}

void SudachiWords::normalised(const SudachiWord& word, std::vector<Code>& into) const {
    into.clear();
    if (unknown(word) || word.whole) {
        const Codes codes = input_.codes().part(word.first, word.last);
        into.assign(codes.begin(), codes.end());
        return;
    }
    // No numeral, comma or point lies outside the first plane: halves of pairs may stand as they are.
    for (const char16_t unit : dictionary_.normalised(word.id)) into.push_back(unit);
}

void SudachiWords::replace(std::size_t first, std::size_t last, SudachiWord word) {
    path_[first] = word;
    path_.erase(path_.begin() + static_cast<std::ptrdiff_t>(first) + 1,
                path_.begin() + static_cast<std::ptrdiff_t>(last));
}

bool SudachiWords::join_number(std::size_t first, std::size_t last) {
    if (kind(path_[first]) != WordKind::kNumeral || last <= first) return false;
    replace(first, last, {path_[first].first, path_[last - 1].last, unknown_id(WordKind::kNumeral), true});
    return true;
}

// A comma or a point that cannot stand in the number is tried again as no part of one.
void SudachiWords::join_numbers() {
    constexpr std::ptrdiff_t none = -1;
    using Fault = SudachiNumber::Fault;
    std::ptrdiff_t begin = none;
    bool commas = true, points = true;
    const auto stops_at = [this](std::size_t i) {
        normalised(path_[i], form_);
        return (number_.fault() == Fault::kComma && is_one(form_, ',')) ||
               (number_.fault() == Fault::kPoint && is_one(form_, '.'));
    };
    for (std::ptrdiff_t i = 0; i < static_cast<std::ptrdiff_t>(path_.size()); ++i) {
        const SudachiWord& word = path_[static_cast<std::size_t>(i)];
        const bool numerals = (input_.common(word.first, word.last) & kNumerals) != 0;
        const bool mark = word.last == word.first + 1 && (input_.category(word.first) & kSymbolCategory);
        form_.clear();
        if (numerals || mark) normalised(word, form_);
        const bool comma = is_one(form_, ','), point = is_one(form_, '.');
        if (numerals || (commas && comma) || (points && point)) {
            if (begin == none) {
                number_.clear();
                begin = i;
            }
            for (const Code code : form_) {
                if (number_.add(code)) continue;
                if (number_.fault() == Fault::kComma) {
                    commas = false;
                    i = begin - 1;
                } else if (number_.fault() == Fault::kPoint) {
                    points = false;
                    i = begin - 1;
                }
                begin = none;
                break;
            }
            continue;
        }
        if (begin != none) {
            const auto first = static_cast<std::size_t>(begin), last = static_cast<std::size_t>(i);
            if (number_.finish()) {
                join_number(first, last);
                i = begin + 1;
            } else if (stops_at(last - 1)) {
                join_number(first, last - 1);
                i = begin + 2;
            }
        }
        begin = none;
        commas = commas || !comma;
        points = points || !point;
    }
    if (begin == none) return;
    const auto first = static_cast<std::size_t>(begin);
    if (number_.finish()) {
        join_number(first, path_.size());
    } else if (stops_at(path_.size() - 1)) {
        join_number(first, path_.size() - 1);
    }
}

bool SudachiWords::is_katakana(const SudachiWord& word) const {
    return (input_.common(word.first, word.last) & kKatakanaCategory) != 0;
}

void SudachiWords::join_katakana() {
    for (std::size_t i = 0; i < path_.size(); ++i) {
        const SudachiWord& word = path_[i];
        if (!(unknown(word) || word.last - word.first < shortest_katakana_) || !is_katakana(word)) continue;
        std::size_t first = i, last = i + 1;
        while (first > 0 && is_katakana(path_[first - 1])) --first;
        while (last < path_.size() && is_katakana(path_[last])) ++last;
        while (first < last && (input_.category(path_[first].first) & kNoUnknownBegin)) ++first;
        if (last <= first + 1) {
            i = last - 1;  // every word of this run would come to the same
            continue;
        }
        SudachiWord joined{path_[first].first, path_[last - 1].last, unknown_id(joined_katakana_), true};
        lattice_.word_between(joined.first, joined.last, joined);
        replace(first, last, joined);
        i = first + 1;  // the next is no katakana
    }
}

}  // namespace jpllm::text
