// Word lists: bindings.
#include <memory>
#include <utility>

#include "strings.h"
#include "text/automaton.h"

namespace {

using namespace jpllm::text;

class WordLists {
public:
    explicit WordLists(const std::vector<std::vector<py::str>>& lists) {
        std::vector<Automaton::Word> words;
        for (std::size_t list = 0; list < lists.size(); ++list) {
            for (const py::str& word : lists[list]) {
                words.push_back({owned_codes(word), static_cast<std::uint32_t>(list)});
                if (words.back().text.empty()) throw py::value_error("WordLists: a word is empty");
            }
        }
        automaton_ = std::make_unique<Automaton>(std::move(words), lists.size());
    }

    // (matches, their characters) of each list.
    std::vector<std::pair<std::size_t, std::size_t>> count(const py::str& text) const {
        std::vector<std::pair<std::size_t, std::size_t>> out;
        for (const auto& matches : found(text)) {
            std::size_t characters = 0;
            for (const Automaton::Match& match : matches) characters += match.last - match.first;
            out.emplace_back(matches.size(), characters);
        }
        return out;
    }

    // (first, last) of every match of each list.
    std::vector<std::vector<std::pair<std::size_t, std::size_t>>> find(const py::str& text) const {
        std::vector<std::vector<std::pair<std::size_t, std::size_t>>> out;
        for (const auto& matches : found(text)) {
            out.emplace_back();
            for (const Automaton::Match& match : matches) out.back().emplace_back(match.first, match.last);
        }
        return out;
    }

private:
    // Valid until the thread's next call.
    const std::vector<std::vector<Automaton::Match>>& found(const py::str& text) const {
        thread_local std::vector<Code> buffer;
        thread_local std::vector<std::vector<Automaton::Match>> matches;
        const Codes codes = codes_of(text, buffer);
        const py::gil_scoped_release release;
        automaton_->find(codes, matches);
        return matches;
    }

    std::unique_ptr<Automaton> automaton_;
};

}  // namespace

void bind_lists(py::module_& m) {
    using namespace py::literals;
    py::class_<WordLists>(m, "WordLists",
                          "Lists of words, searched in one pass. Of each list, the longest word from left to right.")
        .def(py::init<const std::vector<std::vector<py::str>>&>(), "lists"_a)
        .def("count", &WordLists::count, "(matches, their characters) of each list.", "text"_a)
        .def("find", &WordLists::find, "(first, last) of every match of each list, from left to right.", "text"_a);
}
