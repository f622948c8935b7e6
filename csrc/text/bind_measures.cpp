// Measures of a text: bindings.
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

std::vector<Span> spans_of(const Offsets& words, std::size_t size) {
    if (words.ndim() != 2 || words.shape(1) != 2) {
        throw py::value_error("measure: words must have the shape (words, 2): first and last offset of each");
    }
    std::vector<Span> spans;
    std::uint32_t before = 0;
    const auto at = words.unchecked<2>();
    for (py::ssize_t i = 0; i < words.shape(0); ++i) {
        const Span span{static_cast<std::uint32_t>(at(i, 0)), static_cast<std::uint32_t>(at(i, 1))};
        if (at(i, 0) < 0 || span.first < before || span.last <= span.first || span.last > size) {
            throw py::value_error("measure: words must follow each other inside the text; see word " +
                                  std::to_string(i));
        }
        spans.push_back(span);
        before = span.last;
    }
    return spans;
}

Offsets words_by_script(const py::str& text) {
    thread_local std::vector<Code> buffer;
    thread_local std::vector<Span> spans;
    const Codes codes = checked(text, buffer, "words_by_script");
    script_words(codes, spans);
    Offsets out({static_cast<py::ssize_t>(spans.size()), static_cast<py::ssize_t>(2)});
    auto at = out.mutable_unchecked<2>();
    for (std::size_t i = 0; i < spans.size(); ++i) {
        at(static_cast<py::ssize_t>(i), 0) = static_cast<std::int32_t>(spans[i].first);
        at(static_cast<py::ssize_t>(i), 1) = static_cast<std::int32_t>(spans[i].last);
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
        std::vector<std::vector<Code>> stops;
        for (const py::str& word : stop_words) stops.push_back(owned_codes(word));
        measurer_ = std::make_unique<Measurer>(wanted, longest, std::move(stops));
    }

    std::vector<double> measure(const py::str& text, const std::optional<Offsets>& words) {
        std::vector<Code> buffer;
        buffer.swap(buffer_);  // another thread that comes while this one works has a buffer of its own
        const Codes codes = checked(text, buffer, "measure");
        std::vector<Span> spans;
        if (words && by_word_) spans = spans_of(*words, codes.size);
        std::vector<double> out;
        {
            const py::gil_scoped_release release;
            const std::lock_guard<std::mutex> lock(mutex_);
            const auto& values = measurer_->measure(codes, words && by_word_ ? &spans : nullptr);
            out.reserve(order_.size());
            for (const Measure m : order_) out.push_back(values[m]);
        }
        buffer_.swap(buffer);
        return out;
    }

private:
    std::vector<Measure> order_;
    bool by_word_ = false;
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
        .def("measure", &Measures::measure, "The values, in the order of the names; `words` as of words_by_script.",
             "text"_a, "words"_a = py::none());
}
