// The automaton of all word lists.
#include "text/automaton.h"

#include <algorithm>
#include <utility>

#include "text/intern.h"

namespace jpllm::text {
namespace {

constexpr std::uint64_t kFree = ~std::uint64_t{0};

std::uint64_t key_of(std::uint32_t node, std::uint32_t symbol) {
    return static_cast<std::uint64_t>(node) << 32 | symbol;
}

}  // namespace

Automaton::Automaton(std::vector<Word> words, std::size_t lists)
    : words_(std::move(words)), lists_(lists), symbols_(0x110000, 0), from_root_(1, 0), nodes_(1) {
    edge_keys_.assign(1024, kFree);
    edge_to_.assign(1024, 0);
    next_word_.assign(words_.size(), kNoWord);
    std::vector<std::pair<std::uint32_t, std::uint32_t>> arrived(1, {0, 0});  // of each node: from where, by what
    for (std::uint32_t w = 0; w < words_.size(); ++w) {
        std::uint32_t node = 0;
        for (const Code code : words_[w].text) {
            if (symbols_[code] == 0) {
                symbols_[code] = static_cast<std::uint32_t>(from_root_.size());
                from_root_.push_back(0);
            }
            const std::uint32_t symbol = symbols_[code];
            std::uint32_t to = child(node, symbol);
            if (to == 0) {
                to = static_cast<std::uint32_t>(nodes_.size());
                nodes_.emplace_back();
                arrived.emplace_back(node, symbol);
                add_child(node, symbol, to);
            }
            node = to;
        }
        next_word_[w] = nodes_[node].first_word;
        nodes_[node].first_word = w;
    }
    // Breadth first, so that a node's fail is there before its children ask for it.
    std::vector<std::vector<std::uint32_t>> children(nodes_.size());
    for (std::uint32_t n = 1; n < nodes_.size(); ++n) children[arrived[n].first].push_back(n);
    std::vector<std::uint32_t> queue = children[0];
    for (std::size_t q = 0; q < queue.size(); ++q) {
        const std::uint32_t n = queue[q], symbol = arrived[n].second;
        if (arrived[n].first != 0) {
            std::uint32_t at = nodes_[arrived[n].first].fail;
            while (at != 0 && child(at, symbol) == 0) at = nodes_[at].fail;
            nodes_[n].fail = child(at, symbol);
        }
        nodes_[n].output = nodes_[n].first_word != kNoWord ? n : nodes_[nodes_[n].fail].output;
        queue.insert(queue.end(), children[n].begin(), children[n].end());
    }
}

std::uint32_t Automaton::child(std::uint32_t node, std::uint32_t symbol) const {
    if (node == 0) return from_root_[symbol];
    const std::uint64_t key = key_of(node, symbol);
    const std::size_t mask = edge_keys_.size() - 1;
    for (std::size_t slot = mix_slot(key) & mask;; slot = (slot + 1) & mask) {
        if (edge_keys_[slot] == key) return edge_to_[slot];
        if (edge_keys_[slot] == kFree) return 0;
    }
}

void Automaton::add_child(std::uint32_t node, std::uint32_t symbol, std::uint32_t to) {
    if (node == 0) {
        from_root_[symbol] = to;
        return;
    }
    if (2 * ++edges_ > edge_keys_.size()) grow();
    const std::uint64_t key = key_of(node, symbol);
    const std::size_t mask = edge_keys_.size() - 1;
    std::size_t slot = mix_slot(key) & mask;
    while (edge_keys_[slot] != kFree) slot = (slot + 1) & mask;
    edge_keys_[slot] = key;
    edge_to_[slot] = to;
}

void Automaton::grow() {
    std::vector<std::uint64_t> keys(2 * edge_keys_.size(), kFree);
    std::vector<std::uint32_t> to(keys.size(), 0);
    keys.swap(edge_keys_);
    to.swap(edge_to_);
    const std::size_t mask = edge_keys_.size() - 1;
    for (std::size_t i = 0; i < keys.size(); ++i) {
        if (keys[i] == kFree) continue;
        std::size_t slot = mix_slot(keys[i]) & mask;
        while (edge_keys_[slot] != kFree) slot = (slot + 1) & mask;
        edge_keys_[slot] = keys[i];
        edge_to_[slot] = to[i];
    }
}

void Automaton::find(Codes text, std::vector<std::vector<Match>>& by_list) const {
    by_list.resize(lists_);
    for (std::vector<Match>& matches : by_list) matches.clear();
    std::uint32_t node = 0;
    for (std::size_t i = 0; i < text.size; ++i) {
        const std::uint32_t symbol = symbols_[text[i]];
        if (symbol == 0) {
            node = 0;
            continue;
        }
        std::uint32_t to = child(node, symbol);
        while (to == 0 && node != 0) {
            node = nodes_[node].fail;
            to = child(node, symbol);
        }
        node = to;
        for (std::uint32_t out = nodes_[node].output; out != 0; out = nodes_[nodes_[out].fail].output) {
            for (std::uint32_t w = nodes_[out].first_word; w != kNoWord; w = next_word_[w]) {
                by_list[words_[w].list].push_back({i + 1 - words_[w].text.size(), i + 1, w});
            }
        }
    }
    for (std::vector<Match>& matches : by_list) {
        // From all matches to those of the search from left to right: by place, at one place the longest, and none that
        // begins before the one taken last has ended.
        std::sort(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
            return a.first != b.first ? a.first < b.first : a.last != b.last ? a.last > b.last : a.word < b.word;
        });
        std::size_t kept = 0, end = 0;
        for (const Match& match : matches) {
            if (match.first < end) continue;
            end = match.last;
            matches[kept++] = match;
        }
        matches.resize(kept);
    }
}

}  // namespace jpllm::text
