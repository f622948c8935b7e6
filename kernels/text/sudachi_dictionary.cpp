// SudachiDict's binary dictionary.
//
// The file begins with a description: 16 letters, the version, two numbers of 8 bytes, three strings, two counts, and a
// list of blocks, each a name, a start and a size. An entry is 32 bytes (left, right and cost of the lattice; part of
// speech; where its strings are; how long its units are) and its units behind it.
#include "text/sudachi_dictionary.h"

#include <stdexcept>

namespace jpllm::text {
namespace {

constexpr char kMagic[] = "SudachiBinaryDic";
constexpr std::size_t kMagicSize = 16, kEntry = 32;

[[noreturn]] void broken(const std::string& what) {
    throw std::runtime_error("the dictionary of Sudachi cannot be read: " + what);
}

struct Cursor {
    const std::uint8_t* at;
    const std::uint8_t* end;

    const std::uint8_t* take(std::size_t bytes) {
        if (static_cast<std::size_t>(end - at) < bytes) broken("it ends too soon");
        const std::uint8_t* here = at;
        at += bytes;
        return here;
    }
    std::uint64_t number() {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            const std::uint8_t byte = *take(1);
            value |= std::uint64_t{byte & 0x7Fu} << shift;
            if (byte < 0x80) return value;
        }
        broken("a number is too long");
    }
    std::string text() {
        const auto size = static_cast<std::size_t>(number());
        return {reinterpret_cast<const char*>(take(size)), size};
    }
};

}  // namespace

SudachiDictionary::SudachiDictionary(const std::uint8_t* data, std::size_t size) {
    Cursor cursor{data, data + size};
    if (size < kMagicSize || std::memcmp(data, kMagic, kMagicSize) != 0) broken("it has another format");
    cursor.take(kMagicSize);
    const auto version = load<std::uint64_t>(cursor.take(8));
    if (version != 1) broken("its format has version " + std::to_string(version) + ", not 1");
    cursor.take(16);
    for (int i = 0; i < 3; ++i) cursor.text();
    cursor.number();
    cursor.number();
    Block matrix, trie, parts;
    for (std::uint64_t left = cursor.number(); left > 0; --left) {
        const std::string name = cursor.text();
        const auto start = static_cast<std::size_t>(cursor.number()), bytes = static_cast<std::size_t>(cursor.number());
        if (start > size || bytes > size - start) broken("its part " + name + " lies outside it");
        const Block block{data + start, bytes};
        if (name == "ConnMatrix") matrix = block;
        if (name == "TrieIndex") trie = block;
        if (name == "POS") parts = block;
        if (name == "WordPointers") pointers_ = block;
        if (name == "Entries") entries_ = block;
        if (name == "Strings") strings_ = block;
    }
    if (matrix.size < 4 || trie.size < 4 || pointers_.size == 0 || entries_.size == 0 || parts.size < 2) {
        broken("a part of it is missing");
    }
    trie_ = trie.at;
    trie_size_ = trie.size / 4;
    rows_ = load<std::uint16_t>(matrix.at);
    columns_ = load<std::uint16_t>(matrix.at + 2);
    if (matrix.size < 4 + 2 * rows_ * columns_) broken("the matrix of costs is too short");
    if (reinterpret_cast<std::uintptr_t>(matrix.at) % 2 != 0) broken("the matrix of costs is not aligned");
    matrix_ = reinterpret_cast<const std::int16_t*>(matrix.at + 4);
    read_kinds(parts);
}

void SudachiDictionary::read_kinds(Block parts_of_speech) {
    Cursor cursor{parts_of_speech.at, parts_of_speech.at + parts_of_speech.size};
    const auto count = load<std::int16_t>(cursor.take(2));
    bool numerals = false;
    for (int i = 0; i < count; ++i) {
        std::u16string name, whole;
        for (int k = 0; k < 6; ++k) {
            const auto units = load<std::uint16_t>(cursor.take(2));
            const std::uint8_t* at = cursor.take(std::size_t{2} * units);
            if (k > 0) whole += u',';
            for (std::size_t u = 0; u < units; ++u) whole += static_cast<char16_t>(load<std::uint16_t>(at + 2 * u));
            if (k == 0) name = whole;
        }
        WordKind kind = WordKind::kOther;
        if (name == u"名詞") kind = WordKind::kNoun;
        if (name == u"補助記号") kind = WordKind::kMark;
        if (name == u"空白") kind = WordKind::kBlank;
        if (whole == u"名詞,数詞,*,*,*,*") kind = WordKind::kNumeral;
        numerals = numerals || kind == WordKind::kNumeral;
        kinds_.push_back(kind);
    }
    if (!numerals) broken("it has no numerals among its parts of speech");
}

WordKind SudachiDictionary::kind(std::uint32_t id) const {
    const auto part = load<std::uint16_t>(entry(id) + 6);
    if (part >= kinds_.size()) broken("a word has a part of speech that it has not");
    return kinds_[part];
}

const std::uint8_t* SudachiDictionary::entry(std::uint32_t id) const {
    const std::size_t at = std::size_t{id & 0x0FFFFFFFu} << 3;
    if (at + kEntry > entries_.size) broken("a word lies outside its entries");
    return entries_.at + at;
}

std::uint64_t SudachiDictionary::number(std::size_t& at) const {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && at < pointers_.size; shift += 7) {
        const std::uint8_t byte = pointers_.at[at++];
        value |= std::uint64_t{byte & 0x7Fu} << shift;
        if (byte < 0x80) return value;
    }
    broken("a list of words is cut");
}

const std::uint8_t* SudachiDictionary::units_of(std::uint32_t id, std::size_t& count) const {
    // Long, middle and short units follow each other; where a length is below 0, the units are those before.
    const std::uint8_t* at = entry(id);
    const auto length = [at](std::size_t place) { return static_cast<int>(static_cast<std::int8_t>(at[place])); };
    const int units_c = length(26), units_b = length(27), units_a = length(28);
    const std::uint8_t* units = at + kEntry;
    count = static_cast<std::size_t>(units_c > 0 ? units_c : 0);
    if (units_b >= 0) {
        units += 4 * count;
        count = static_cast<std::size_t>(units_b);
    }
    if (units_a >= 0) {
        units += 4 * count;
        count = static_cast<std::size_t>(units_a);
    }
    if (static_cast<std::size_t>(units - entries_.at) + 4 * count > entries_.size) broken("units lie outside it");
    return units;
}

std::size_t SudachiDictionary::short_units(std::uint32_t id) const {
    std::size_t count = 0;
    units_of(id, count);
    return count;
}

std::uint32_t SudachiDictionary::short_unit(std::uint32_t id, std::size_t i) const {
    std::size_t count = 0;
    return load<std::uint32_t>(units_of(id, count) + 4 * i);
}

std::u16string SudachiDictionary::normalised(std::uint32_t id) const {
    // A pointer to a string: 5 bits of its length, more of them for one longer than 19, then the place. The first bit
    // of the rest of a length is always 1 and is not written; the longer a string, the rounder its place.
    const auto pointer = load<std::uint32_t>(entry(load<std::uint32_t>(entry(id) + 16)) + 8);
    const std::uint32_t base = pointer >> 27, more = base > 19 ? base - 19 : 0;
    const std::uint32_t rest = more > 0 ? (pointer & 0x07FF0000u) >> (28 - more) | 1u << (more - 1) : 0;
    const std::uint32_t length = base - more + rest, shift = more > 0 ? more - 1 : 0;
    const std::size_t place = std::size_t{pointer & 0x07FFFFFFu >> shift} << shift;
    if (2 * (place + length) > strings_.size) broken("a string lies outside it");
    std::u16string text;
    for (std::size_t u = 0; u < length; ++u) {
        text += static_cast<char16_t>(load<std::uint16_t>(strings_.at + 2 * (place + u)));
    }
    return text;
}

}  // namespace jpllm::text
