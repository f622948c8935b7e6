// A text rewritten as Sudachi does before it looks up words.
#include "text/sudachi_input.h"

#include <algorithm>
#include <utility>

namespace jpllm::text {
namespace {

constexpr std::uint8_t kBecomes = 1, kBegins = 2, kLong = 4;

bool among(const std::vector<Code>& codes, Code code) {
    return std::find(codes.begin(), codes.end(), code) != codes.end();
}

void append_utf8(Code code, std::string& out) {
    const auto byte = [&out](Code value) { out.push_back(static_cast<char>(value)); };
    if (code < 0x80) {
        byte(code);
    } else if (code < 0x800) {
        byte(0xC0 | code >> 6);
        byte(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        byte(0xE0 | code >> 12);
        byte(0x80 | (code >> 6 & 0x3F));
        byte(0x80 | (code & 0x3F));
    } else {
        byte(0xF0 | code >> 18);
        byte(0x80 | (code >> 12 & 0x3F));
        byte(0x80 | (code >> 6 & 0x3F));
        byte(0x80 | (code & 0x3F));
    }
}

}  // namespace

SudachiInput::SudachiInput(SudachiRewriting rewriting)
    : rewriting_(std::move(rewriting)), rewritten_(rewriting_.categories.size(), 0) {
    for (const auto& [code, into] : rewriting_.characters) rewritten_[code] |= kBecomes;
    for (const auto& [pair, into] : rewriting_.pairs) rewritten_[pair >> 32] |= kBegins;
    for (const Code code : rewriting_.long_vowels) rewritten_[code] |= kLong;
}

void SudachiInput::set(Codes text) {
    rewrite(text);
    join_long_vowels();
    drop_readings();
    measure();
}

// Of what a character becomes, the first comes from it and the others from behind it: a cut inside falls to its end.
void SudachiInput::rewrite(Codes text) {
    codes_.clear();
    origins_.clear();
    const auto put = [this](const std::vector<Code>& into, std::size_t first, std::size_t last) {
        for (std::size_t k = 0; k < into.size(); ++k) {
            codes_.push_back(into[k]);
            origins_.push_back(static_cast<std::uint32_t>(k == 0 ? first : last));
        }
    };
    for (std::size_t i = 0; i < text.size; ++i) {
        const std::uint8_t what = rewritten_[text[i]];
        if (!(what & (kBecomes | kBegins))) {
            codes_.push_back(text[i]);
            origins_.push_back(static_cast<std::uint32_t>(i));
            continue;
        }
        if ((what & kBegins) && i + 1 < text.size) {
            const auto found = rewriting_.pairs.find(std::uint64_t{text[i]} << 32 | text[i + 1]);
            if (found != rewriting_.pairs.end()) {
                put(found->second, i, i + 2);
                ++i;
                continue;
            }
        }
        if (what & kBecomes) {
            put(rewriting_.characters.find(text[i])->second, i, i + 1);
        } else {
            codes_.push_back(text[i]);
            origins_.push_back(static_cast<std::uint32_t>(i));
        }
    }
    origins_.push_back(static_cast<std::uint32_t>(text.size));
}

void SudachiInput::join_long_vowels() {
    if (rewriting_.long_vowels.empty()) return;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < codes_.size();) {
        std::size_t last = i;
        while (last < codes_.size() && (rewritten_[codes_[last]] & kLong)) ++last;
        codes_[kept] = last - i > 1 ? rewriting_.long_vowels[0] : codes_[i];
        origins_[kept++] = origins_[i];
        i = std::max(last, i + 1);
    }
    origins_[kept] = origins_[codes_.size()];
    codes_.resize(kept);
    origins_.resize(kept + 1);
}

// A kanji, a bracket, some kana, a bracket: the brackets and what they hold go.
void SudachiInput::drop_readings() {
    if (rewriting_.left_brackets.empty()) return;
    constexpr std::uint32_t kana = kHiraganaCategory | kKatakanaCategory;
    const std::size_t n = codes_.size();
    std::size_t kept = 0;
    for (std::size_t i = 0; i < n;) {
        const bool kanji = (of(codes_[i]) & kKanjiCategory) != 0;
        codes_[kept] = codes_[i];
        origins_[kept++] = origins_[i++];
        if (!kanji || i >= n || !among(rewriting_.left_brackets, codes_[i])) continue;
        std::size_t last = i + 1;
        while (last < n && last - i <= rewriting_.longest_reading && (of(codes_[last]) & kana)) ++last;
        if (last > i + 1 && last < n && among(rewriting_.right_brackets, codes_[last])) i = last + 1;
    }
    origins_[kept] = origins_[n];
    codes_.resize(kept);
    origins_.resize(kept + 1);
}

void SudachiInput::measure() {
    const std::size_t n = codes_.size();
    categories_.resize(n);
    bytes_.resize(n + 1);
    cuts_.resize(n + 1);
    runs_.resize(n);
    utf8_.clear();
    characters_.clear();
    constexpr std::uint32_t alphabets = kAlphaCategory | kGreekCategory | kCyrillicCategory;
    std::uint32_t before = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const std::uint32_t category = of(codes_[i]);
        categories_[i] = category;
        bytes_[i] = static_cast<std::uint32_t>(utf8_.size());
        append_utf8(codes_[i], utf8_);
        characters_.resize(utf8_.size(), static_cast<std::uint32_t>(i));
        cuts_[i] = !(category & alphabets) || !(category & before);
        before = category;
    }
    bytes_[n] = static_cast<std::uint32_t>(utf8_.size());
    characters_.push_back(static_cast<std::uint32_t>(n));
    cuts_[n] = 1;
    // A run is measured where the one before has ended, and not inside it.
    for (std::size_t first = 0; first < n;) {
        std::uint32_t common_to_all = categories_[first];
        std::size_t last = first + 1;
        while (last < n && (common_to_all & categories_[last])) common_to_all &= categories_[last++];
        for (std::size_t i = first; i < last; ++i) runs_[i] = static_cast<std::uint32_t>(last - i);
        first = last;
    }
}

std::uint32_t SudachiInput::common(std::size_t first, std::size_t last) const {
    if (first >= last) return 0;
    std::uint32_t all = ~0u;
    for (std::size_t i = first; i < last; ++i) all &= categories_[i];
    return all;
}

}  // namespace jpllm::text
