// Which queries lie in the lanes of a block, which keys they see, and how rows are copied in and out.
//
// The queries of all heads that share a key/value head form one list: kLanes positions at a time, head after head, and
// what is left of the positions at the end with the heads one behind the other. So short sequences of many heads fill
// the lanes too. A block is kLanes queries of that list; what it holds depends on the shape alone.
#pragma once
#include "../core/rows.h"
#include "../core/team.h"
#include "args.h"
#include "tiles.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

JPLLM_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
JPLLM_INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

constexpr int64_t kMostDim = 256;

// Floats of a row of a copied block of queries: an odd number of 64-byte lines, so that the same channels of many rows
// do not fall on the same few sets of the cache.
JPLLM_INLINE int64_t row_pitch(int64_t dim) {
    const int64_t lines = (dim + 15) / 16;
    return (lines + 1 - lines % 2) * 16;
}

JPLLM_INLINE int64_t query_blocks(const AttentionArgs& a) {
    const int64_t groups = a.heads / a.kv_heads;
    return a.queries / kLanes * groups + (a.queries % kLanes * groups + kLanes - 1) / kLanes;
}

struct alignas(64) Block {
    float low[kLanes], high[kLanes], rank[kLanes];  // the first and last key that a lane sees, its document
    int32_t head[kLanes], query[kLanes];
    int count;
    // Over the lanes of each vector, and over all.
    int64_t least_low[kVectors], most_low[kVectors], least_high[kVectors], most_high[kVectors];
    int64_t first, last;  // keys that any lane sees; last < first: none

    bool sees(int64_t begin, int64_t end) const { return first < end && last >= begin; }
};

inline void find_block(const AttentionArgs& a, int64_t batch, int64_t index, Block* block) {
    const int64_t groups = a.heads / a.kv_heads, full = a.queries / kLanes * groups, left = a.queries % kLanes;
    const int64_t lanes = index < full ? kLanes : at_most(kLanes, left * groups - (index - full) * kLanes);
    block->count = static_cast<int>(lanes);
    block->first = a.keys, block->last = -1;
    for (int v = 0; v < kVectors; ++v) {
        block->least_low[v] = a.keys, block->most_low[v] = 0, block->least_high[v] = a.keys, block->most_high[v] = -1;
    }
    for (int lane = 0; lane < kLanes; ++lane) {
        int64_t head = 0, query = 0, low = 0, high = -1;
        float rank = -1.0f;
        if (lane < lanes) {
            if (index < full) {
                head = index % groups, query = index / groups * kLanes + lane;
            } else {
                const int64_t rest = (index - full) * kLanes + lane;
                head = rest / left, query = a.queries - left + rest % left;
            }
            const int64_t position = a.keys - a.queries + query;
            high = a.causal ? position : a.keys - 1;
            if (a.window > 0) {
                low = at_least(0, position - a.window + 1);
                high = at_most(high, position + a.window - 1);
            }
            if (a.first != nullptr) {
                low = at_least(low, a.first[batch * a.queries + query]);
                high = at_most(high, a.last[batch * a.queries + query]);
            }
            if (a.query_rank != nullptr) rank = static_cast<float>(a.query_rank[batch * a.queries + query]);
        }
        block->head[lane] = static_cast<int32_t>(head), block->query[lane] = static_cast<int32_t>(query);
        block->low[lane] = static_cast<float>(low), block->high[lane] = static_cast<float>(high);
        block->rank[lane] = rank;
        const int v = lane / V::N;
        if (low <= high) {
            block->least_low[v] = at_most(block->least_low[v], low);
            block->most_high[v] = at_least(block->most_high[v], high);
            block->first = at_most(block->first, low), block->last = at_least(block->last, high);
        }
        block->most_low[v] = at_least(block->most_low[v], low);
        block->least_high[v] = at_most(block->least_high[v], high);
    }
}

// The vectors [begin, end) of a block that see any key of [key, stop), and whether each lane of them sees all.
struct Seen {
    int begin, end;
    bool all;
};

inline Seen seen_vectors(const Block& block, int64_t key, int64_t stop, bool ranks) {
    Seen seen{kVectors, 0, !ranks};
    for (int v = 0; v < kVectors; ++v) {
        if (block.least_low[v] < stop && block.most_high[v] >= key) {
            if (seen.begin > v) seen.begin = v;
            seen.end = v + 1;
        }
    }
    for (int v = seen.begin; v < seen.end; ++v) {
        seen.all = seen.all && block.most_low[v] <= key && block.least_high[v] >= stop - 1;
    }
    return seen;
}

// A run of keys of a block for which the same vectors of queries are computed.
struct Segment {
    int key, stop, begin, end;
};

// Adds rows [row, row + kRows) to the runs.
JPLLM_INLINE void extend(Segment* runs, int* count, int row, const Seen& seen) {
    Segment* last = runs + *count - 1;
    if (*count > 0 && last->begin == seen.begin && last->end == seen.end && last->stop == row) {
        last->stop = row + kRows;
    } else {
        runs[(*count)++] = {row, row + kRows, seen.begin, seen.end};
    }
}

template <class T>
JPLLM_INLINE const T* row_of(const HeadsView& x, int64_t batch, int64_t row, int64_t head) {
    return static_cast<const T*>(x.data) + batch * x.batch + row * x.row + head * x.head;
}

// A row of T as FP32, zeroes behind it up to a whole number of 16.
template <class T>
JPLLM_INLINE void copy_row(const T* from, int64_t dim, float factor, float* to) {
    const V f = V::set(factor);
    int64_t d = 0;
    for (; d + V::N <= dim; d += V::N) (V::load(from + d) * f).store(to + d);
    if (d < dim) (V::load_n(from + d, static_cast<int>(dim - d)) * f).store(to + d), d += V::N;
    for (; d < whole(dim, 16); d += V::N) V::zero().store(to + d);
}

// Rows [begin, end) of a head, whole(dim, 16) floats each, and rows of zeroes up to `rows`.
template <class T>
inline void copy_rows(InFloats, const HeadsView& x, int64_t batch, int64_t head, int64_t dim, int64_t begin,
                      int64_t end, int64_t rows, float* to) {
    const int64_t pitch = whole(dim, 16);
    for (int64_t row = begin; row < end; ++row, to += pitch) copy_row(row_of<T>(x, batch, row, head), dim, 1.0f, to);
    memset(to, 0, static_cast<size_t>((rows - (end - begin)) * pitch) * sizeof(float));
}

// One row into the panels, as row `row` of them.
JPLLM_INLINE void spread_row(const float* from, int64_t dim, int64_t row, float* panels) {
    const int64_t full = full_panels(dim), all = padded_channels(dim);
    for (int64_t d = 0; d < full; d += kRows) {
        JPLLM_UNROLL for (int i = 0; i < kRows; ++i)
            panels[d * kKeys + row * kRows + i] = from[d + i];
    }
    for (int64_t d = full; d < all; d += 4) {
        JPLLM_UNROLL for (int i = 0; i < 4; ++i)
            panels[d * kKeys + row * 4 + i] = from[d + i];
    }
}

// The panels of copied rows.
inline void spread_rows(InFloats, const float* from, int64_t dim, int64_t rows, float* panels) {
    for (int64_t r = 0; r < rows; ++r) spread_row(from + r * InFloats::pitch(dim), dim, r, panels);
}

// Rows [begin, end) of a head in panels, zeroes up to `rows`.
template <class T>
inline void copy_panels(InFloats, const HeadsView& x, int64_t batch, int64_t head, int64_t dim, int64_t begin,
                        int64_t end, int64_t rows, float* to) {
    alignas(64) float line[kMostDim + 16];
    for (int64_t row = begin; row < begin + rows; ++row) {
        if (row < end) {
            copy_row(row_of<T>(x, batch, row, head), dim, 1.0f, line);
        } else {
            memset(line, 0, sizeof line);
        }
        spread_row(line, dim, row - begin, to);
    }
}

// The block's rows turned, times a factor: to[d * kLanes + lane]; 0 in lanes that hold no query.
template <class T>
inline void turn_in(InFloats, const HeadsView& x, int64_t batch, int64_t first_head, const Block& block, int64_t dim,
                    float factor, float* to) {
    const V f = V::set(factor);
    for (int v = 0; v < kVectors; ++v, to += V::N) {
        const T* from[V::N];
        const int count = static_cast<int>(at_least(0, at_most(V::N, block.count - v * V::N)));
        for (int l = 0; l < count; ++l) {
            from[l] = row_of<T>(x, batch, block.query[v * V::N + l], first_head + block.head[v * V::N + l]);
        }
        for (int64_t d = 0; d < dim; d += V::N) {
            V part[V::N];
            const int n = static_cast<int>(at_most(V::N, dim - d));
            if (n == V::N && count == V::N) {
                JPLLM_UNROLL for (int l = 0; l < V::N; ++l)
                    part[l] = V::load(from[l] + d);
            } else {
                for (int l = 0; l < V::N; ++l) part[l] = l < count ? V::load_n(from[l] + d, n) : V::zero();
            }
            transpose(part);
            if (n == V::N) {
                JPLLM_UNROLL for (int i = 0; i < V::N; ++i)
                    (part[i] * f).store(to + (d + i) * kLanes);
            } else {
                for (int i = 0; i < n; ++i) (part[i] * f).store(to + (d + i) * kLanes);
            }
        }
    }
}

// The way back: lane l's row is from[d * kLanes + l] * factor[l].
template <class T>
inline void turn_out(const HeadsView& x, int64_t batch, int64_t first_head, const Block& block, int64_t dim,
                     const float* factor, const float* from) {
    for (int v = 0; v < kVectors; ++v, from += V::N, factor += V::N) {
        const V f = V::load(factor);
        const int count = static_cast<int>(at_least(0, at_most(V::N, block.count - v * V::N)));
        T* to[V::N];
        for (int l = 0; l < count; ++l) {
            to[l] =
                const_cast<T*>(row_of<T>(x, batch, block.query[v * V::N + l], first_head + block.head[v * V::N + l]));
        }
        for (int64_t d = 0; d < dim; d += V::N) {
            V part[V::N];
            const int n = static_cast<int>(at_most(V::N, dim - d));
            for (int i = 0; i < V::N; ++i) part[i] = i < n ? V::load(from + (d + i) * kLanes) * f : V::zero();
            transpose(part);
            for (int l = 0; l < count; ++l) {
                if (n == V::N) {
                    part[l].store(to[l] + d);
                } else {
                    part[l].store_n(to[l] + d, n);
                }
            }
        }
    }
}

// The next number of a list that the threads of a team share.
JPLLM_INLINE int64_t take_next(int64_t* counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
