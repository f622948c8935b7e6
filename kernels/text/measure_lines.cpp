// Measures of lines, and of blocks of lines: lengths, ends, what is there twice.
//
// Peers cut text into lines in three ways, and each measure does as the one that it comes from: at every newline
// (HojiChar, FineWeb), at runs of newlines (Gopher's repetition), at every kind of line break (Gopher's quality).
#include <algorithm>

#include "text/classes.h"
#include "text/measures.h"

namespace jpllm::text {
namespace {

bool is(Code code, unsigned classes) { return class_table()[code] & classes; }

bool ends_in_ellipsis(Codes line) {
    const std::size_t n = line.size;
    return n > 0 &&
           (line[n - 1] == 0x2026 || (n > 2 && line[n - 1] == '.' && line[n - 2] == '.' && line[n - 3] == '.'));
}

Codes strip(Codes text) {
    std::size_t first = 0, last = text.size;
    while (first < last && is(text[first], kSpace)) ++first;
    while (last > first && is(text[last - 1], kSpace)) --last;
    return text.part(first, last);
}

// Calls done(line, whether a newline follows) for every line between newlines, empty ones too.
template <class Done>
void each_line(Codes text, Done done) {
    const Code* at = text.begin();
    for (;;) {
        const Code* end = std::find(at, text.end(), '\n');
        done(Codes{at, static_cast<std::size_t>(end - at)}, end != text.end());
        if (end == text.end()) return;
        at = end + 1;
    }
}

}  // namespace

void Measurer::measure_lines(Codes text) {
    std::size_t lines = 0, to_10 = 0, to_30 = 0, prose = 0, terminal = 0, ellipses = 0, newlines = 0;
    Repeats all, not_blank;
    pieces_.reset(64);
    each_line(text, [&](Codes line, bool newline) {
        lines += 1;
        newlines += newline;
        to_10 += line.size <= 10;
        ellipses += newline && ends_in_ellipsis(line);
        if (line.size == 0) return;
        const std::uint32_t known = pieces_.size();
        const bool seen = pieces_.add(line) < known;
        all.add(line, seen);
        if (!std::any_of(line.begin(), line.end(), [](Code code) { return !is(code, kSpace); })) return;
        not_blank.add(line, seen);
        prose += 1;
        to_30 += line.size <= 30;
        terminal += is(line[line.size - 1], kTerminal);
    });
    // Cut at runs of newlines, a text that begins or ends in one has an empty piece there; two are one twice.
    const bool leading = text.size > 0 && text[0] == '\n', trailing = text.size > 0 && text[text.size - 1] == '\n';
    if (leading) all.add({text.at, 0}, false);
    if (trailing) all.add({text.at, 0}, leading);
    values_[k_lines] = static_cast<double>(lines);
    values_[k_newlines] = static_cast<double>(newlines);
    values_[k_mean_line_length] = share(text.size - newlines, lines);
    values_[k_lines_to_10_fraction] = share(to_10, lines);
    values_[k_lines_to_30_fraction] = share(to_30, prose);
    values_[k_terminal_line_fraction] = share(terminal, prose);
    values_[k_ellipsis_per_newline] = share(ellipses, std::max<std::size_t>(newlines, 1));
    values_[k_duplicate_line_fraction] = share(all.repeated_items, all.items);
    values_[k_duplicate_line_character_fraction] = share(all.repeated_characters, text.size);
    values_[k_duplicate_prose_line_character_fraction] = share(not_blank.repeated_characters, text.size - newlines);
}

void Measurer::measure_ends(Codes text) {
    std::size_t lines = 0, bullets = 0, ellipses = 0;
    for (std::size_t first = 0; first < text.size; ++lines) {
        std::size_t last = first;
        while (last < text.size && !is(text[last], kLineBreak)) ++last;
        const Codes line = strip(text.part(first, last));
        bullets += line.size > 0 && (line[0] == 0x2022 || line[0] == '-');
        ellipses += ends_in_ellipsis(line);
        const bool pair = last + 1 < text.size && text[last] == '\r' && text[last + 1] == '\n';
        first = last + (pair ? 2 : 1);
    }
    values_[k_bullet_line_fraction] = share(bullets, lines);
    values_[k_ellipsis_line_fraction] = share(ellipses, lines);
}

void Measurer::measure_blocks(Codes text) {
    const Codes body = strip(text);
    Repeats blocks;
    pieces_.reset(64);
    std::size_t first = 0;
    for (std::size_t i = 0; i <= body.size;) {
        std::size_t run = 0;
        while (i + run < body.size && body[i + run] == '\n') ++run;
        if (i < body.size && run < 2) {
            i += std::max<std::size_t>(run, 1);
            continue;
        }
        const Codes block = body.part(first, i);
        const std::uint32_t known = pieces_.size();
        blocks.add(block, pieces_.add(block) < known);
        i += std::max<std::size_t>(run, 1);
        first = i;
    }
    values_[k_duplicate_block_fraction] = share(blocks.repeated_items, blocks.items);
    values_[k_duplicate_block_character_fraction] = share(blocks.repeated_characters, text.size);
}

void Measurer::measure_sentences(Codes text) {
    // A sentence is a run of other characters and the one mark behind it that ends it; marks that follow are no part of
    // anything. A paragraph is a line of sentences. What is left of the text is kept together, so that equal paragraphs
    // are equal pieces of it.
    kept_.clear();
    kept_.reserve(text.size);
    spans_.clear();  // sentences
    paragraphs_.clear();
    each_line(text, [&](Codes line, bool) {
        const auto begin = static_cast<std::uint32_t>(kept_.size());
        for (std::size_t i = 0; i < line.size;) {
            if (is(line[i], kKutenLike)) {
                ++i;
                continue;
            }
            const auto first = static_cast<std::uint32_t>(kept_.size());
            while (i < line.size && !is(line[i], kKutenLike)) kept_.push_back(line[i++]);
            if (i < line.size) kept_.push_back(line[i++]);
            spans_.push_back({first, static_cast<std::uint32_t>(kept_.size())});
        }
        paragraphs_.push_back({begin, static_cast<std::uint32_t>(kept_.size())});
    });
    const Codes kept{kept_.data(), kept_.size()};
    Repeats sentences, paragraphs;
    std::size_t longest = 0, ellipses = 0;
    pieces_.reset(spans_.size());
    for (const Span& span : spans_) {
        const Codes sentence = kept.part(span.first, span.last);
        const std::uint32_t known = pieces_.size();
        sentences.add(sentence, pieces_.add(sentence) < known);
        longest = std::max(longest, sentence.size);
        const Codes bare = strip(sentence);
        ellipses += bare.size > 0 && (bare[bare.size - 1] == 0x30FB || bare[bare.size - 1] == 0x2026);
    }
    more_.reset(paragraphs_.size());
    for (const Span& span : paragraphs_) {
        const Codes paragraph = kept.part(span.first, span.last);
        const std::uint32_t known = more_.size();
        paragraphs.add(paragraph, more_.add(paragraph) < known);
    }
    values_[k_sentences] = static_cast<double>(sentences.items);
    values_[k_mean_sentence_length] = share(sentences.characters, sentences.items);
    values_[k_max_sentence_length] = static_cast<double>(longest);
    values_[k_ellipsis_sentence_fraction] = share(ellipses, sentences.items);
    values_[k_duplicate_sentence_fraction] = share(sentences.repeated_items, sentences.items);
    values_[k_duplicate_sentence_character_fraction] = share(sentences.repeated_characters, sentences.characters);
    values_[k_duplicate_paragraph_fraction] = share(paragraphs.repeated_items, paragraphs.items);
    values_[k_duplicate_paragraph_character_fraction] = share(paragraphs.repeated_characters, paragraphs.characters);
}

}  // namespace jpllm::text
