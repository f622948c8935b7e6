// Viterbi over the words of a text. Where two paths cost the same, the one is taken whose last word was found first, as
// in Sudachi.
#include "text/sudachi_lattice.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace jpllm::text {

SudachiLattice::SudachiLattice(const SudachiDictionary& dictionary, std::vector<SudachiUnknown> unknown,
                               SudachiUnknown::Kind single)
    : dictionary_(dictionary), unknown_(std::move(unknown)), single_(single) {
    const auto check = [&dictionary](const SudachiUnknown::Kind& kind) {
        if (kind.left >= dictionary.left_numbers() || kind.right >= dictionary.right_numbers()) {
            throw std::runtime_error("unk.def has a number that the dictionary's matrix has not");
        }
    };
    check(single_);
    for (const SudachiUnknown& each : unknown_) std::for_each(each.kinds.begin(), each.kinds.end(), check);
}

void SudachiLattice::best_path(const SudachiInput& input, std::vector<SudachiWord>& path) {
    const std::size_t n = input.size();
    path.clear();
    nodes_.clear();
    if (ends_.size() < n + 1) ends_.resize(n + 1);
    for (std::size_t i = 0; i <= n; ++i) ends_[i].clear();
    begins_.resize(n + 1);
    nodes_.push_back({0, 0, 0, kUnknown, 0});
    ends_[0].push_back({0, 0, 0});
    for (std::size_t at = 0; at < n; ++at) {
        begins_[at] = static_cast<std::uint32_t>(nodes_.size());
        if (!ends_[at].empty()) words_at(input, at);
    }
    begins_[n] = static_cast<std::uint32_t>(nodes_.size());
    reached_.clear();
    if (ends_[n].empty()) throw std::runtime_error("no path leads to the end of the text");
    for (std::uint32_t node = reach(n, 0).node; node != 0; node = nodes_[node].before) {
        path.push_back({nodes_[node].first, nodes_[node].last, nodes_[node].id, false});
    }
    std::reverse(path.begin(), path.end());
}

void SudachiLattice::words_at(const SudachiInput& input, std::size_t at) {
    reached_.clear();
    any_ = false;
    const std::string& text = input.utf8();
    dictionary_.words_at(text.data(), text.size(), input.byte_of(at),
                         [&](std::size_t end, const SudachiDictionary::Word& word) {
                             const std::size_t last = input.character_at(end);
                             if (!input.may_cut(last)) return;
                             add(at, last, word.left, word.right, word.cost, word.id);
                         });
    const bool known = any_;
    if (input.unknown_may_begin(at)) unknown_at(input, at, known);
    if (any_) return;
    std::size_t last = at + 1;
    while (!input.may_cut(last)) ++last;
    add(at, last, single_.left, single_.right, single_.cost, unknown_id(single_.word));
}

void SudachiLattice::unknown_at(const SudachiInput& input, std::size_t at, bool known) {
    const std::uint32_t category = input.category(at);
    const std::size_t run = input.run(at);
    for (const SudachiUnknown& unknown : unknown_) {
        if (!(category & unknown.category) || (known && !unknown.always)) continue;
        const auto put = [&](std::size_t length) {
            for (const SudachiUnknown::Kind& kind : unknown.kinds) {
                add(at, at + length, kind.left, kind.right, kind.cost, unknown_id(kind.word));
            }
        };
        // The run counts as a group, so that it is not made again as the longest of the short ones.
        if (unknown.group) put(run);
        const std::size_t most = std::min(unknown.longest, unknown.group ? run - 1 : run);
        for (std::size_t length = 1; length <= most; ++length) put(length);
    }
}

void SudachiLattice::add(std::size_t first, std::size_t last, std::uint16_t left, std::uint16_t right,
                         std::int16_t cost, std::uint32_t id) {
    if (right >= dictionary_.right_numbers()) throw std::runtime_error("a word has a number that the matrix has not");
    const Reached& reached = reach(first, left);
    const std::int32_t total = reached.total + cost;
    any_ = true;
    const auto node = static_cast<std::uint32_t>(nodes_.size());
    nodes_.push_back({reached.node, static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(last), id, cost});
    std::vector<End>& ends = ends_[last];
    for (std::size_t k = 0; k < ends.size(); ++k) {
        if (ends[k].right != right) continue;
        if (ends[k].total <= total) return;
        // The list stays in the order of the nodes, which decides between paths that cost the same.
        ends.erase(ends.begin() + static_cast<std::ptrdiff_t>(k));
        break;
    }
    ends.push_back({total, node, right});
}

// The cheapest way to a word that begins at a character and has this left number; many of them have the same.
const SudachiLattice::Reached& SudachiLattice::reach(std::size_t at, std::uint16_t left) {
    for (const Reached& known : reached_) {
        if (known.left == left) return known;
    }
    if (left >= dictionary_.left_numbers()) throw std::runtime_error("a word has a number that the matrix has not");
    const std::int16_t* const costs = dictionary_.costs_before(left);
    const std::vector<End>& ends = ends_[at];
    Reached best{ends[0].total + costs[ends[0].right], ends[0].node, left};
    for (std::size_t k = 1; k < ends.size(); ++k) {
        const std::int32_t total = ends[k].total + costs[ends[k].right];
        if (total < best.total) best = {total, ends[k].node, left};
    }
    reached_.push_back(best);
    return reached_.back();
}

bool SudachiLattice::word_between(std::size_t first, std::size_t last, SudachiWord& found) const {
    const Node* best = nullptr;
    for (std::size_t k = begins_[first]; k < begins_[first + 1]; ++k) {
        if (nodes_[k].last == last && (best == nullptr || nodes_[k].cost < best->cost)) best = &nodes_[k];
    }
    if (best == nullptr) return false;
    found = {static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(last), best->id, false};
    return true;
}

}  // namespace jpllm::text
