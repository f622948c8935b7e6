// Measures of a text: bindings.
#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "strings.h"
#include "text/classes.h"
#include "text/measures.h"

namespace {

using namespace jpllm::text;

using Offsets = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;
constexpr std::size_t kLongestText = 0xFFFFFFF0;  // places are 32-bit numbers

int character_class(std::uint32_t code) {
    if (code > 0x10FFFF) throw py::value_error("character_class: code must be at most 0x10ffff");
    return class_table()[code];
}

std::vector<std::string> measure_names() {
    std::vector<std::string> names;
    for (int m = 0; m < kMeasures; ++m) names.emplace_back(name_of(static_cast<Measure>(m)));
    return names;
}

Codes checked(const py::str& text, std::vector<Code>& into, const char* name) {
    const Codes codes = codes_of(text, into);
    if (codes.size > kLongestText) throw py::value_error(std::string(name) + ": the text is too long");
    return codes;
}

// Words of two columns have no kind, which a measure may ask for.
std::vector<Word> words_of(const Offsets& words, std::size_t size) {
    if (words.ndim() != 2 || (words.shape(1) != 2 && words.shape(1) != 3)) {
        throw py::value_error(
            "measure: words must have the shape (words, 2) or (words, 3): first and last offset of each, and its kind");
    }
    std::vector<Word> out;
    out.reserve(static_cast<std::size_t>(words.shape(0)));
    const bool kinds = words.shape(1) == 3;
    std::uint32_t before = 0;
    const auto at = words.unchecked<2>();
    for (py::ssize_t i = 0; i < words.shape(0); ++i) {
        const Span span{static_cast<std::uint32_t>(at(i, 0)), static_cast<std::uint32_t>(at(i, 1))};
        if (at(i, 0) < 0 || span.first < before || span.last <= span.first || span.last > size) {
            throw py::value_error("measure: words must follow each other inside the text; see word " +
                                  std::to_string(i));
        }
        if (kinds && (at(i, 2) < 0 || static_cast<std::size_t>(at(i, 2)) >= kWordKinds)) {
            throw py::value_error("measure: word " + std::to_string(i) + " has no kind of words");
        }
        out.push_back({span, kinds ? static_cast<WordKind>(at(i, 2)) : WordKind::kOther});
        before = span.last;
    }
    return out;
}

Offsets words_by_script(const py::str& text) {
    thread_local std::vector<Code> buffer;
    thread_local std::vector<Word> words;
    const Codes codes = checked(text, buffer, "words_by_script");
    script_words(codes, words);
    Offsets out({static_cast<py::ssize_t>(words.size()), static_cast<py::ssize_t>(2)});
    auto at = out.mutable_unchecked<2>();
    for (std::size_t i = 0; i < words.size(); ++i) {
        at(static_cast<py::ssize_t>(i), 0) = static_cast<std::int32_t>(words[i].first);
        at(static_cast<py::ssize_t>(i), 1) = static_cast<std::int32_t>(words[i].last);
    }
    return out;
}

// The measures asked for by name, in that order. One document at a time: threads that share one wait for each other.
class Measures {
public:
    Measures(const std::vector<std::string>& names, const std::vector<py::str>& stop_words) {
        unsigned wanted = 0;
        std::size_t longest = 5;
        for (const std::string& name : names) {
            int m = 0;
            while (m < kMeasures && name != name_of(static_cast<Measure>(m))) ++m;
            if (m == kMeasures) throw py::value_error("Measures: no measure '" + name + "'");
            order_.push_back(static_cast<Measure>(m));
            wanted |= group_of(order_.back());
            if (order_.back() > k_duplicate_5gram_fraction && order_.back() < k_commonest_5gram_fraction &&
                order_.back() != k_duplicate_5gram_type_fraction) {
                longest = 10;
            }
        }
        by_word_ = (wanted & kWordGroup) != 0;
        by_kind_ = std::find(order_.begin(), order_.end(), k_noun_fraction) != order_.end();
        std::vector<std::vector<Code>> stops;
        for (const py::str& word : stop_words) stops.push_back(owned_codes(word));
        measurer_ = std::make_unique<Measurer>(wanted, longest, std::move(stops));
    }

    std::vector<double> measure(const py::str& text, const std::optional<Offsets>& words) {
        std::vector<Code> buffer;
        buffer.swap(buffer_);  // another thread that comes while this one works has a buffer of its own
        const Codes codes = checked(text, buffer, "measure");
        if (by_kind_ && !(words && words->ndim() == 2 && words->shape(1) == 3)) {
            throw py::value_error(
                "measure: noun_fraction needs words of the shape (words, 3): first and last offset of each, and its "
                "kind");
        }
        std::vector<Word> given;
        if (words && by_word_) given = words_of(*words, codes.size);
        std::vector<double> out;
        {
            const py::gil_scoped_release release;
            const std::lock_guard<std::mutex> lock(mutex_);
            const auto& values = measurer_->measure(codes, words && by_word_ ? &given : nullptr);
            out.reserve(order_.size());
            for (const Measure m : order_) out.push_back(values[m]);
        }
        buffer_.swap(buffer);
        return out;
    }

private:
    std::vector<Measure> order_;
    bool by_word_ = false, by_kind_ = false;
    std::unique_ptr<Measurer> measurer_;
    std::mutex mutex_;
    std::vector<Code> buffer_;
};

}  // namespace

void bind_measures(py::module_& m) {
    using namespace py::literals;
    m.def("character_class", &character_class, "The classes of a code point as bits; kernels/text/classes.h has them.",
          "code"_a);
    m.def("measure_names", &measure_names, "All measures that `Measures` takes.");
    m.def("words_by_script", &words_by_script, "Runs of one script as an array (words, 2) of first and last offset.",
          "text"_a);
    py::class_<Measures>(m, "Measures", "Measures texts by the measures of these names.")
        .def(py::init<const std::vector<std::string>&, const std::vector<py::str>&>(), "names"_a,
             "stop_words"_a = std::vector<py::str>{})
        .def("measure", &Measures::measure,
             "The values, in the order of the names; `words` as of words_by_script, or with kinds as of "
             "SudachiWords.cut.",
             "text"_a, "words"_a = py::none());
}
