// A team of threads: the same function runs in each, with its number, the team's size and a barrier. Plain C++ without
// library headers, because the instruction sets' units include it (simd/simd.h says why).
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace jpllm {

// Shared by the threads of one team.
struct alignas(256) Barrier {
    int arrived = 0;
    alignas(256) int round = 0;
};

struct Team {
    int id;
    int size;
    Barrier* shared;

    // All earlier writes of all threads are seen by all threads afterwards.
    void barrier() const;

    // This thread's part of [0, n), in whole multiples of `unit`. Always inline: see simd/simd.h.
    __attribute__((always_inline)) void split(int64_t n, int64_t unit, int64_t* start, int64_t* stop) const {
        const int64_t units = (n + unit - 1) / unit, each = units / size, more = units % size;
        const int64_t first = id * each + (id < more ? id : more), last = first + each + (id < more ? 1 : 0);
        *start = first * unit < n ? first * unit : n;
        *stop = last * unit < n ? last * unit : n;
    }
};

// Runs work(team, context) on `threads` threads (the caller is one of them) and returns when all have ended. The team
// may be smaller than asked for: inside another parallel region, or where the runtime has a limit.
void run_team(int threads, void (*work)(const Team&, void*), void* context);

// Threads worth using for work of so many nanoseconds on one: `threads` or 1, nothing between, because libgomp ends
// and starts threads whenever the size of a team changes.
int worthwhile(int threads, double nanoseconds);

// Memory of the calling thread that is kept for its next call: at least `bytes`, aligned to a huge page where large.
// One block at a time: a second call gives the first block up. nullptr where there is none.
void* workspace(size_t bytes);

}  // namespace jpllm
