// Which keys belong to a query's document: the first and the last of them, and, where a document is not one run of
// keys, numbers to compare. Of the API, not of the units.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "args.h"

namespace jpllm {

class Documents {
public:
    // Ids [B, S] and [B, T], or null: everything is one document.
    Documents(const int64_t* query_ids, const int64_t* key_ids, int64_t batch, int64_t queries, int64_t keys) {
        if (query_ids == nullptr || key_ids == nullptr) return;
        first_.resize(static_cast<size_t>(batch * queries));
        last_.resize(first_.size()), query_rank_.resize(first_.size());
        key_rank_.resize(static_cast<size_t>(batch * keys));
        for (int64_t b = 0; b < batch; ++b) find(query_ids + b * queries, key_ids + b * keys, b, queries, keys);
    }

    void put(AttentionArgs* args) const {
        if (first_.empty()) return;
        args->first = first_.data(), args->last = last_.data();
        if (runs_) return;
        args->query_rank = query_rank_.data(), args->key_rank = key_rank_.data();
    }

private:
    struct Document {
        int64_t id;
        int32_t first, last, count;
    };

    void find(const int64_t* query_ids, const int64_t* key_ids, int64_t b, int64_t queries, int64_t keys) {
        // Keys sorted by id; packed sequences mostly are.
        std::vector<int32_t> order(static_cast<size_t>(keys));
        for (int64_t t = 0; t < keys; ++t) order[static_cast<size_t>(t)] = static_cast<int32_t>(t);
        if (!std::is_sorted(key_ids, key_ids + keys)) {
            std::sort(order.begin(), order.end(), [key_ids](int32_t x, int32_t y) {
                return key_ids[x] != key_ids[y] ? key_ids[x] < key_ids[y] : x < y;
            });
        }
        std::vector<Document> documents;
        for (const int32_t t : order) {
            if (documents.empty() || documents.back().id != key_ids[t]) documents.push_back({key_ids[t], t, t, 0});
            documents.back().last = t, ++documents.back().count;
            key_rank_[static_cast<size_t>(b * keys + t)] = static_cast<int32_t>(documents.size()) - 1;
        }
        for (const Document& d : documents) runs_ = runs_ && d.last - d.first + 1 == d.count;
        for (int64_t s = 0; s < queries; ++s) {
            const auto at = static_cast<size_t>(b * queries + s);
            const auto found = std::lower_bound(documents.begin(), documents.end(), query_ids[s],
                                                [](const Document& d, int64_t id) { return d.id < id; });
            if (found == documents.end() || found->id != query_ids[s]) {
                first_[at] = static_cast<int32_t>(keys), last_[at] = -1, query_rank_[at] = -1;
            } else {
                first_[at] = found->first, last_[at] = found->last;
                query_rank_[at] = static_cast<int32_t>(found - documents.begin());
            }
        }
    }

    std::vector<int32_t> first_, last_, query_rank_, key_rank_;
    bool runs_ = true;  // every document's keys lie side by side
};

}  // namespace jpllm
