// Tables that give equal things the same small number, in the order in which they are first seen.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

constexpr std::uint32_t kNone = 0xFFFFFFFF;

// Not the mixing of rolling.h, whose bits are written into files.
inline std::uint64_t mix_slot(std::uint64_t x) {
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    return x ^ (x >> 29);
}

// The smallest power of two that leaves at least half of the table free.
inline std::size_t capacity_for(std::size_t items) {
    std::size_t capacity = 16;
    while (capacity < 2 * items) capacity *= 2;
    return capacity;
}

// 64-bit keys. No two keys share a number: what the table says is exact.
class KeyTable {
public:
    // Empty, with room for so many different keys.
    void reset(std::size_t items) {
        const std::size_t capacity = capacity_for(items);
        if (ids_.size() < capacity) {
            keys_.resize(capacity);
            ids_.resize(capacity);
        }
        std::fill_n(ids_.begin(), capacity, kNone);
        mask_ = capacity - 1;
        size_ = 0;
    }

    std::uint32_t add(std::uint64_t key) {
        for (std::size_t slot = mix_slot(key) & mask_;; slot = (slot + 1) & mask_) {
            if (ids_[slot] == kNone) {
                keys_[slot] = key;
                return ids_[slot] = size_++;
            }
            if (keys_[slot] == key) return ids_[slot];
        }
    }

    std::uint32_t size() const { return size_; }

private:
    std::vector<std::uint64_t> keys_;
    std::vector<std::uint32_t> ids_;
    std::size_t mask_ = 0;
    std::uint32_t size_ = 0;
};

// Pieces of a text, compared character by character where their hashes agree. The text must stay where it is.
class PieceTable {
public:
    void reset(std::size_t items) {
        const std::size_t capacity = capacity_for(items);
        if (ids_.size() < capacity) ids_.resize(capacity);
        std::fill_n(ids_.begin(), capacity, kNone);
        mask_ = capacity - 1;
        pieces_.clear();
        hashes_.clear();
    }

    // Room for one more than so far, for callers that cannot say beforehand how many there will be.
    void reserve_one() {
        if (2 * (pieces_.size() + 1) <= mask_ + 1) return;
        mask_ = 2 * (mask_ + 1) - 1;
        ids_.assign(std::max(ids_.size(), mask_ + 1), kNone);
        for (std::size_t id = 0; id < pieces_.size(); ++id) {
            std::size_t slot = hashes_[id] & mask_;
            while (ids_[slot] != kNone) slot = (slot + 1) & mask_;
            ids_[slot] = static_cast<std::uint32_t>(id);
        }
    }

    std::uint32_t add(Codes piece) {
        reserve_one();
        const std::uint64_t hash = hash_of(piece);
        const std::size_t slot = find(piece, hash);
        if (ids_[slot] == kNone) {
            ids_[slot] = static_cast<std::uint32_t>(pieces_.size());
            pieces_.push_back(piece);
            hashes_.push_back(hash);
        }
        return ids_[slot];
    }

    // The number of a piece, or kNone.
    std::uint32_t find(Codes piece) const { return ids_[find(piece, hash_of(piece))]; }

    std::uint32_t size() const { return static_cast<std::uint32_t>(pieces_.size()); }
    Codes piece(std::uint32_t id) const { return pieces_[id]; }

private:
    static std::uint64_t hash_of(Codes piece) {
        std::uint64_t hash = piece.size;
        for (const Code code : piece) hash = (hash ^ code) * 0x9E3779B97F4A7C15u + 1;
        return mix_slot(hash);
    }

    std::size_t find(Codes piece, std::uint64_t hash) const {
        for (std::size_t slot = hash & mask_;; slot = (slot + 1) & mask_) {
            const std::uint32_t id = ids_[slot];
            if (id == kNone) return slot;
            if (hashes_[id] == hash && pieces_[id].size == piece.size &&
                std::equal(piece.begin(), piece.end(), pieces_[id].begin())) {
                return slot;
            }
        }
    }

    std::vector<std::uint32_t> ids_;
    std::vector<Codes> pieces_;
    std::vector<std::uint64_t> hashes_;
    std::size_t mask_ = 0;
};

// How many pieces were there before, and their characters.
struct Repeats {
    std::size_t items = 0, characters = 0, repeated_items = 0, repeated_characters = 0;

    void add(Codes piece, bool seen) {
        items += 1;
        characters += piece.size;
        if (!seen) return;
        repeated_items += 1;
        repeated_characters += piece.size;
    }
};

}  // namespace jpllm::text
