// MinHash signatures, hashes of n-grams, and windows chosen by content: bindings.
#include <cstring>
#include <limits>

#include "strings.h"
#include "text/minhash.h"
#include "text/windows.h"

namespace {

using jpllm::text::Codes;
template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Many texts as one array of code points, so that the work on them needs no interpreter lock.
struct Batch {
    std::vector<jpllm::text::Code> codes;
    std::vector<std::size_t> ends;

    explicit Batch(const py::list& texts) {
        std::size_t total = 0;
        for (const py::handle text : texts) {
            if (!PyUnicode_Check(text.ptr())) throw py::type_error("texts: every item must be a str");
            total += static_cast<std::size_t>(PyUnicode_GET_LENGTH(text.ptr()));
        }
        codes.resize(total);
        ends.reserve(texts.size());
        std::size_t at = 0;
        std::vector<jpllm::text::Code> one;
        for (const py::handle text : texts) {
            const Codes part = codes_of(py::reinterpret_borrow<py::str>(text), one);
            std::copy(part.begin(), part.end(), codes.begin() + static_cast<std::ptrdiff_t>(at));
            at += part.size;
            ends.push_back(at);
        }
    }
    Codes text(std::size_t i) const {
        const std::size_t start = i == 0 ? 0 : ends[i - 1];
        return {codes.data() + start, ends[i] - start};
    }
};

template <class T>
Array<T> to_array(const std::vector<T>& values) {
    Array<T> out(static_cast<py::ssize_t>(values.size()));
    if (!values.empty()) std::memcpy(out.mutable_data(), values.data(), values.size() * sizeof(T));
    return out;
}

std::size_t positive(py::ssize_t value, const char* name) {
    if (value < 1) throw py::value_error(std::string(name) + " must be at least 1");
    return static_cast<std::size_t>(value);
}

// The signatures of `count` texts, the i-th of which text(i) gives.
template <class Text>
Array<std::uint32_t> signatures(std::size_t count, Text text, py::ssize_t n, const Array<std::uint32_t>& a,
                                const Array<std::uint32_t>& b, const std::string& isa) {
    if (a.ndim() != 1 || b.ndim() != 1 || a.size() != b.size()) {
        throw py::value_error("multipliers and offsets must be of one dimension and equally long");
    }
    const auto lower = jpllm::text::lower_for(isa.c_str());
    if (lower == nullptr) throw py::value_error("isa " + isa + " is not among those of minhash_isas()");
    const std::size_t gram = positive(n, "n"), functions = static_cast<std::size_t>(a.size());
    Array<std::uint32_t> out({static_cast<py::ssize_t>(count), a.size()});
    std::uint32_t* const into = out.mutable_data();
    const std::uint32_t *const factors = a.data(), *const terms = b.data();
    {
        const py::gil_scoped_release release;
        std::vector<std::uint32_t> work;
        for (std::size_t i = 0; i < count; ++i) {
            jpllm::text::minhash(text(i), gram, factors, terms, functions, lower, work, into + i * functions);
        }
    }
    return out;
}

Array<std::uint32_t> minhash(const py::list& texts, py::ssize_t n, const Array<std::uint32_t>& a,
                             const Array<std::uint32_t>& b, const std::string& isa) {
    const Batch batch(texts);
    return signatures(batch.ends.size(), [&batch](std::size_t i) { return batch.text(i); }, n, a, b, isa);
}

// The ends must ascend and the last be the number of the units.
void check_ends(const Array<std::int64_t>& ends, py::ssize_t units) {
    std::int64_t last = 0;
    for (py::ssize_t i = 0; i < ends.size(); ++i) {
        if (ends.data()[i] < last) throw py::value_error("ends must ascend");
        last = ends.data()[i];
    }
    if (last != units) throw py::value_error("the last of ends must be the number of units");
}

Array<std::uint32_t> minhash_units(const Array<std::uint32_t>& units, const Array<std::int64_t>& ends, py::ssize_t n,
                                   const Array<std::uint32_t>& a, const Array<std::uint32_t>& b,
                                   const std::string& isa) {
    check_ends(ends, units.size());
    const std::uint32_t* const at = units.data();
    const std::int64_t* const stops = ends.data();
    return signatures(
        static_cast<std::size_t>(ends.size()),
        [at, stops](std::size_t i) {
            const std::int64_t start = i == 0 ? 0 : stops[i - 1];
            return Codes{at + start, static_cast<std::size_t>(stops[i] - start)};
        },
        n, a, b, isa);
}

std::vector<std::string> minhash_isas() {
    std::vector<std::string> names;
    for (const char* const* name = jpllm::text::lower_isas(); *name != nullptr; ++name) names.emplace_back(*name);
    return names;
}

py::tuple gram_hashes(const py::list& texts, py::ssize_t n) {
    const Batch batch(texts);
    const std::size_t gram = positive(n, "n");
    std::vector<std::uint64_t> hashes;
    std::vector<std::int64_t> ends;
    {
        const py::gil_scoped_release release;
        hashes.reserve(batch.codes.size());
        for (std::size_t i = 0; i < batch.ends.size(); ++i) {
            jpllm::text::gram_hashes(batch.text(i), gram, hashes);
            ends.push_back(static_cast<std::int64_t>(hashes.size()));
        }
    }
    return py::make_tuple(to_array(hashes), to_array(ends));
}

py::tuple windows(const py::list& texts, py::ssize_t k, py::ssize_t w) {
    const Batch batch(texts);
    const std::size_t size = positive(k, "k"), span = positive(w, "w");
    for (std::size_t i = 0; i < batch.ends.size(); ++i) {
        if (batch.text(i).size > std::numeric_limits<std::uint32_t>::max()) {
            throw py::value_error("a text of more than 2^32 - 1 characters");
        }
    }
    jpllm::text::Windows found;
    std::vector<std::int64_t> ends;
    {
        const py::gil_scoped_release release;
        std::vector<std::uint64_t> work;
        for (std::size_t i = 0; i < batch.ends.size(); ++i) {
            jpllm::text::windows(batch.text(i), size, span, work, found);
            ends.push_back(static_cast<std::int64_t>(found.hashes.size()));
        }
    }
    return py::make_tuple(to_array(found.hashes), to_array(found.positions), to_array(ends));
}

}  // namespace

void bind_minhash(py::module_& m) {
    using namespace py::literals;
    m.def("minhash", &minhash, "Signatures [texts, functions] over character n-grams; kernels/text/minhash.h.",
          "texts"_a, "n"_a, "multipliers"_a, "offsets"_a, "isa"_a = "");
    m.def("minhash_units", &minhash_units, "As minhash, of units (hashed words); `ends` says where each text ends.",
          "units"_a, "ends"_a, "n"_a, "multipliers"_a, "offsets"_a, "isa"_a = "");
    m.def("minhash_isas", &minhash_isas, "The instruction sets that minhash can run on here, best first.");
    m.def("gram_hashes", &gram_hashes, "64-bit hashes of all character n-grams, and where each text's end.", "texts"_a,
          "n"_a);
    m.def("windows", &windows, "Hashes, positions and ends of windows chosen by content; kernels/text/windows.h.",
          "texts"_a, "k"_a, "w"_a);
}
