// Marks that take more than one character: those of a bulletin board or a shop, and addresses of pages.
#include <algorithm>
#include <string>

#include "text/classes.h"
#include "text/measures.h"

namespace jpllm::text {
namespace {

// What HojiChar's DiscardBBSComments counts beside dates and numbers of episodes.
constexpr const char32_t* kWords[] = {U"コメント", U"SOLD OUT", U"レビュー", U"投稿", U"ページ", U"質問", U"楽天市場"};
constexpr const char32_t* kWeekdays = U"月火水木金土日";

bool is_digit(Code code) { return class_table()[code] & kDigit; }

bool among(Code code, const char32_t* set) {
    for (; *set != 0; ++set) {
        if (*set == code) return true;
    }
    return false;
}

bool starts(Codes text, std::size_t i, const char32_t* word) {
    for (; *word != 0; ++word, ++i) {
        if (i >= text.size || text[i] != *word) return false;
    }
    return true;
}

std::size_t digits(Codes text, std::size_t i, std::size_t most) {
    std::size_t n = 0;
    while (n < most && i + n < text.size && is_digit(text[i + n])) ++n;
    return n;
}

std::size_t past(Codes text, std::size_t i, Code code) {
    while (i < text.size && text[i] == code) ++i;
    return i;
}

// The end of a date whose year of four digits begins at i (2024年1月2日, 2024-01-02, 2024. 1. 2), or 0.
std::size_t date_end(Codes text, std::size_t i) {
    i += 4;
    if (i >= text.size || !among(text[i], U"年.-/")) return 0;
    i = past(text, i + 1, ' ');
    const std::size_t month = digits(text, i, 2);
    i += month;
    if (month == 0 || i >= text.size || !among(text[i], U"月.-/")) return 0;
    i = past(text, i + 1, ' ');
    const std::size_t day = digits(text, i, 2);
    return day == 0 ? 0 : past(text, i + day, U'日');
}

struct Marks {
    std::size_t board = 0, urls = 0, url_characters = 0;
};

// What begins at a digit: the end of the run of digits, or of the mark that it belongs to.
std::size_t number(Codes text, std::size_t i, Marks& marks) {
    const std::size_t last = i + digits(text, i, text.size);
    if (last < text.size && text[last] == U'話') {
        marks.board += 1;
        return last + 1;
    }
    const std::size_t end = last - i >= 4 ? date_end(text, last - 4) : 0;
    if (end == 0) return last;
    marks.board += 1;
    return end;
}

// The length of the mark of a board that begins at i with no digit, or 0.
std::size_t board_mark(Codes text, std::size_t i) {
    if (text[i] == '-') return 1;
    if (text[i] == '(') {
        return i + 2 < text.size && among(text[i + 1], kWeekdays) && text[i + 2] == ')' ? 3 : 0;
    }
    for (const char32_t* word : kWords) {
        if (text[i] == *word && starts(text, i, word)) return std::char_traits<char32_t>::length(word);
    }
    return 0;
}

bool in_url(Code code) { return code > 0x20 && code < 0x7F && code != '"' && code != '<' && code != '>'; }

std::size_t url_length(Codes text, std::size_t i) {
    if (!starts(text, i, U"http://") && !starts(text, i, U"https://")) return 0;
    std::size_t n = 0;
    while (i + n < text.size && in_url(text[i + n])) ++n;
    return n;
}

// Whether a mark may begin with a character: one byte for each, so that most text costs one look-up a character.
const std::uint8_t* may_begin() {
    static const std::vector<std::uint8_t> table = [] {
        std::vector<std::uint8_t> out(0x110000, 0);
        for (Code code = 0; code < 0x110000; ++code) out[code] = is_digit(code);
        for (const char32_t* word : kWords) out[*word] = 1;
        out['('] = out['-'] = out['h'] = 1;
        return out;
    }();
    return table.data();
}

}  // namespace

void Measurer::measure_marks(Codes text) {
    const std::uint8_t* begins = may_begin();
    Marks marks;
    std::size_t url_end = 0;
    for (std::size_t i = 0; i < text.size;) {
        if (!begins[text[i]]) {
            ++i;
            continue;
        }
        if (text[i] == 'h' && i >= url_end) {
            const std::size_t length = url_length(text, i);
            marks.urls += length > 0;
            marks.url_characters += length;
            url_end = i + length;
        }
        if (is_digit(text[i])) {
            i = number(text, i, marks);
            continue;
        }
        const std::size_t length = board_mark(text, i);
        marks.board += length > 0;
        i += std::max<std::size_t>(length, 1);
    }
    values_[k_board_marks] = static_cast<double>(marks.board);
    values_[k_urls] = static_cast<double>(marks.urls);
    values_[k_url_fraction] = share(marks.url_characters, text.size);
}

}  // namespace jpllm::text
