// Sudachi's words: bindings. pyjpllm/corpus/rules/sudachi.py reads the settings that come here.
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>

#include "strings.h"
#include "text/sudachi_words.h"

namespace {

using namespace jpllm::text;

using Bytes = py::array_t<std::uint8_t, py::array::c_style>;
using Categories = py::array_t<std::uint32_t, py::array::c_style | py::array::forcecast>;
using Kind = std::tuple<unsigned, unsigned, int, std::size_t>;
using Unknown = std::tuple<std::uint32_t, bool, bool, std::size_t, std::vector<Kind>>;

constexpr std::size_t kCodePoints = 0x110000, kLongestText = 0xFFFFFFF0;

WordKind word_kind(std::size_t number) {
    if (number >= kWordKinds) throw py::value_error("SudachiWords: no kind of words " + std::to_string(number));
    return static_cast<WordKind>(number);
}

SudachiUnknown::Kind kind_of(const Kind& kind) {
    return {static_cast<std::uint16_t>(std::get<0>(kind)), static_cast<std::uint16_t>(std::get<1>(kind)),
            static_cast<std::int16_t>(std::get<2>(kind)), word_kind(std::get<3>(kind))};
}

SudachiRewriting rewriting_of(const Categories& categories, const std::vector<std::pair<py::str, py::str>>& changes,
                              const py::str& long_vowels, const py::str& left, const py::str& right,
                              std::size_t longest) {
    if (categories.ndim() != 1 || static_cast<std::size_t>(categories.size()) != kCodePoints) {
        throw py::value_error("SudachiWords: categories must be an array of all 0x110000 code points");
    }
    SudachiRewriting out;
    out.categories.assign(categories.data(), categories.data() + categories.size());
    for (const auto& [from, into] : changes) {
        const std::vector<Code> key = owned_codes(from);
        if (key.size() == 1) {
            out.characters[key[0]] = owned_codes(into);
        } else if (key.size() == 2) {
            out.pairs[std::uint64_t{key[0]} << 32 | key[1]] = owned_codes(into);
        } else {
            throw py::value_error("SudachiWords: only one or two characters can be rewritten");
        }
    }
    out.long_vowels = owned_codes(long_vowels);
    out.left_brackets = owned_codes(left);
    out.right_brackets = owned_codes(right);
    out.longest_reading = longest;
    return out;
}

// One document at a time: threads that share one wait for each other.
class Sudachi {
public:
    Sudachi(Bytes dictionary, const Categories& categories, const std::vector<std::pair<py::str, py::str>>& changes,
            const py::str& long_vowels, const py::str& left, const py::str& right, std::size_t longest,
            const std::vector<Unknown>& unknown, const Kind& single, std::size_t shortest_katakana,
            std::size_t joined_katakana)
        : bytes_(std::move(dictionary)), dictionary_(bytes_.data(), static_cast<std::size_t>(bytes_.size())) {
        std::vector<SudachiUnknown> kinds;
        for (const auto& [category, always, group, most, each] : unknown) {
            kinds.push_back({category, always, group, most, {}});
            for (const Kind& kind : each) kinds.back().kinds.push_back(kind_of(kind));
        }
        words_ = std::make_unique<SudachiWords>(
            dictionary_, rewriting_of(categories, changes, long_vowels, left, right, longest), std::move(kinds),
            kind_of(single), shortest_katakana, word_kind(joined_katakana));
    }

    py::array_t<std::int32_t> cut(const py::str& text) {
        std::vector<Code> buffer;
        const Codes codes = codes_of(text, buffer);
        if (codes.size > kLongestText) throw py::value_error("cut: the text is too long");
        std::vector<Word> words;
        {
            const py::gil_scoped_release release;
            const std::lock_guard<std::mutex> lock(mutex_);
            words_->cut(codes, words);
        }
        py::array_t<std::int32_t> out({static_cast<py::ssize_t>(words.size()), static_cast<py::ssize_t>(3)});
        auto at = out.mutable_unchecked<2>();
        for (std::size_t i = 0; i < words.size(); ++i) {
            const auto row = static_cast<py::ssize_t>(i);
            at(row, 0) = static_cast<std::int32_t>(words[i].first);
            at(row, 1) = static_cast<std::int32_t>(words[i].last);
            at(row, 2) = static_cast<std::int32_t>(words[i].kind);
        }
        return out;
    }

private:
    const Bytes bytes_;  // the dictionary is read where they lie
    const SudachiDictionary dictionary_;
    std::unique_ptr<SudachiWords> words_;
    std::mutex mutex_;
};

}  // namespace

void bind_sudachi(py::module_& m) {
    using namespace py::literals;
    py::class_<Sudachi>(m, "SudachiWords", "Cuts texts into Sudachi's short units; kernels/text/sudachi_words.h.")
        .def(py::init<Bytes, const Categories&, const std::vector<std::pair<py::str, py::str>>&, const py::str&,
                      const py::str&, const py::str&, std::size_t, const std::vector<Unknown>&, const Kind&,
                      std::size_t, std::size_t>(),
             "dictionary"_a, "categories"_a, "changes"_a, "long_vowels"_a, "left_brackets"_a, "right_brackets"_a,
             "longest_reading"_a, "unknown"_a, "single"_a, "shortest_katakana"_a, "joined_katakana"_a)
        .def("cut", &Sudachi::cut, "The words as an array (words, 3): first and last offset, and WordKind.", "text"_a);
}
