// SudachiDict's binary dictionary (version 1 of its format, SudachiPy 0.7), as far as cutting text needs it: read in
// place, from the bytes of system.dic. The layout is that of WorksApplications/sudachi.rs, sudachi/src/dic.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "text/words.h"

namespace jpllm::text {

class SudachiDictionary {
public:
    // The bytes must stay where they are. Throws std::runtime_error for what is no such dictionary.
    SudachiDictionary(const std::uint8_t* data, std::size_t size);

    struct Word {
        std::uint32_t id;
        std::uint16_t left, right;
        std::int16_t cost;
    };

    // found(end, word) for every word that begins at a byte of a text in UTF-8: shorter ones first.
    template <class Found>
    void words_at(const char* text, std::size_t size, std::size_t from, Found found) const {
        std::size_t place = offset_of(unit(0));
        for (std::size_t i = from; i < size; ++i) {
            const auto byte = static_cast<std::uint8_t>(text[i]);
            place ^= byte;
            if (place >= trie_size_) return;
            const std::uint32_t next = unit(place);
            if ((next & 0x800000FFu) != byte) return;
            place ^= offset_of(next);
            if (!(next >> 8 & 1) || place >= trie_size_) continue;
            // What words have this form: how many, and each number as the difference from the one before.
            std::size_t at = unit(place) & 0x7FFFFFFFu;
            std::uint32_t id = 0;
            for (std::uint64_t left = number(at); left > 0; --left) {
                id += static_cast<std::uint32_t>(number(at));
                found(i + 1, word(id));
            }
        }
    }

    // What it costs that a word with this right number is followed by one with this left number: a row of the matrix is
    // one `left`.
    const std::int16_t* costs_before(std::uint16_t left) const { return matrix_ + std::size_t{left} * rows_; }
    std::size_t right_numbers() const { return rows_; }
    std::size_t left_numbers() const { return columns_; }

    // The kind of a word by its part of speech.
    WordKind kind(std::uint32_t id) const;
    // Bytes of UTF-8 of the form that is looked up.
    std::size_t form_bytes(std::uint32_t id) const { return load<std::uint16_t>(entry(id) + 24); }
    // The short units of a word: how many, and the number of the i-th.
    std::size_t short_units(std::uint32_t id) const;
    std::uint32_t short_unit(std::uint32_t id, std::size_t i) const;
    // The normalised form, in UTF-16.
    std::u16string normalised(std::uint32_t id) const;

private:
    struct Block {
        const std::uint8_t* at = nullptr;
        std::size_t size = 0;
    };

    template <class T>
    static T load(const std::uint8_t* at) {
        T value;
        std::memcpy(&value, at, sizeof value);
        return value;
    }
    static std::size_t offset_of(std::uint32_t unit) { return std::size_t{unit >> 10} << ((unit & 1 << 9) >> 6); }
    std::uint32_t unit(std::size_t place) const { return load<std::uint32_t>(trie_ + 4 * place); }
    const std::uint8_t* entry(std::uint32_t id) const;
    Word word(std::uint32_t id) const {
        const std::uint8_t* at = entry(id);
        return {id, load<std::uint16_t>(at), load<std::uint16_t>(at + 2), load<std::int16_t>(at + 4)};
    }
    // A number of seven bits a byte, the lowest first; `at` goes behind it.
    std::uint64_t number(std::size_t& at) const;
    void read_kinds(Block parts_of_speech);
    const std::uint8_t* units_of(std::uint32_t id, std::size_t& count) const;

    const std::uint8_t* trie_ = nullptr;
    std::size_t trie_size_ = 0;
    Block pointers_, entries_, strings_;
    const std::int16_t* matrix_ = nullptr;
    std::size_t rows_ = 0, columns_ = 0;
    std::vector<WordKind> kinds_;  // by the number of the part of speech
};

}  // namespace jpllm::text
