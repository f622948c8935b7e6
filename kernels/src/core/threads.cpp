// Teams of threads. torch's wheels carry an OpenMP runtime of their own; a second pool beside it would fight it for the
// cores. So teams come from the OpenMP runtime that is already in the process, found by name and called through
// GOMP_parallel (libgomp's entry; LLVM's, Intel's and Fujitsu's runtimes have it too), and only where there is none
// from a small pool of our own. Nothing here links to OpenMP. $JPLLM_THREADS=own leaves OpenMP alone.
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime.h"
#include "team.h"

namespace jpllm {
namespace {

void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield" ::: "memory");
#endif
}

// While a kernel runs on aarch64 its threads flush denormals to zero (FPCR.FZ, and FZ16 for half precision): each one
// costs an A64FX core some 90 cycles (A64FX Microarchitecture Manual 1.8.1). What the caller had set comes back after.
// Conversions to and from 16 bits keep theirs: FZ16 does not touch them, and bfloat16 is rounded as an integer.
class FlushDenormals {
public:
#if defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        const uint64_t now = before_ | (uint64_t{1} << 24) | (uint64_t{1} << 19);
        asm volatile("msr fpcr, %0" ::"r"(now));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(before_)); }

private:
    uint64_t before_;
#else
    FlushDenormals() {}
    ~FlushDenormals() {}
#endif
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

void work_in(const Team& team, void (*work)(const Team&, void*), void* context) {
    const FlushDenormals mode;
    work(team, context);
}

// --- the OpenMP runtime of the process ---------------------------------------------------------------------------

struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread_num)() = nullptr;
    int (*num_threads)() = nullptr;
    std::string path;
};

bool is_openmp(const std::string& path) {
    const std::string file = path.substr(path.rfind('/') + 1);
    for (const char* name : {"libgomp", "libomp", "libiomp5", "libfjomp"}) {
        if (file.compare(0, strlen(name), name) == 0) return true;
    }
    return false;
}

std::vector<std::string> loaded_openmp() {
    std::vector<std::string> paths;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
            if (info->dlpi_name != nullptr && is_openmp(info->dlpi_name)) {
                static_cast<std::vector<std::string>*>(out)->push_back(info->dlpi_name);
            }
            return 0;
        },
        &paths);
    return paths;
}

// torch's own where there are several: its threads are the ones that ours would fight.
OpenMP find_openmp() {
    std::vector<std::string> paths = loaded_openmp();
    for (size_t i = 1; i < paths.size(); ++i) {
        if (paths[i].find("/torch") != std::string::npos && paths[0].find("/torch") == std::string::npos) {
            paths[0].swap(paths[i]);
        }
    }
    for (const std::string& path : paths) {
        void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
        if (library == nullptr) continue;
        OpenMP omp;
        omp.path = path;
        void* parallel = dlsym(library, "GOMP_parallel");
        void* thread_num = dlsym(library, "omp_get_thread_num");
        void* num_threads = dlsym(library, "omp_get_num_threads");
        if (parallel == nullptr || thread_num == nullptr || num_threads == nullptr) continue;
        memcpy(&omp.parallel, &parallel, sizeof parallel);
        memcpy(&omp.thread_num, &thread_num, sizeof thread_num);
        memcpy(&omp.num_threads, &num_threads, sizeof num_threads);
        return omp;
    }
    return {};
}

OpenMP wanted_openmp() {
    const char* asked = getenv("JPLLM_THREADS");
    return asked != nullptr && strcmp(asked, "own") == 0 ? OpenMP{} : find_openmp();
}

// Looked for at the first team, when torch has been loaded; never given up.
const OpenMP& openmp() {
    static const OpenMP* found = new OpenMP(wanted_openmp());
    return *found;
}

// --- our own pool ------------------------------------------------------------------------------------------------

// Workers wait for the next round, at first spinning, then asleep. One team at a time.
class Pool {
public:
    void run(int threads, void (*work)(const Team&, void*), void* context, Barrier* barrier) {
        try {
            for (; workers_ < threads - 1; ++workers_) {
                std::thread(&Pool::serve, this, workers_ + 1, round_.load()).detach();
            }
        } catch (const std::system_error&) {
            threads = workers_ + 1;  // the system gives no more threads: a smaller team, the same bits
        }
        work_ = work, context_ = context, barrier_ = barrier, size_ = threads;
        left_.store(workers_, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(sleep_);
            round_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        work_in(Team{0, threads, barrier}, work, context);
        for (int spins = 0; left_.load(std::memory_order_acquire) != 0; ++spins) {
            if (spins < kSpins) {
                pause_cpu();
            } else {
                sched_yield();
            }
        }
    }

private:
    static constexpr int kSpins = 4000;  // some 50 microseconds

    void serve(int id, uint64_t seen) {
        for (;;) {
            for (int spins = 0; spins < kSpins && round_.load(std::memory_order_acquire) == seen; ++spins) pause_cpu();
            if (round_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(sleep_);
                wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
            }
            ++seen;
            if (id < size_) work_in(Team{id, size_, barrier_}, work_, context_);
            left_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex sleep_;
    std::condition_variable wake_;
    std::atomic<uint64_t> round_{0};
    std::atomic<int> left_{0};
    int workers_ = 0;
    void (*work_)(const Team&, void*) = nullptr;
    void* context_ = nullptr;
    Barrier* barrier_ = nullptr;
    int size_ = 0;
};

struct OwnPool {
    std::mutex busy;
    Pool pool;
};

// Leaked on purpose: its threads wait on it until the process ends. A forked child has none of them and starts anew.
OwnPool* own_pool = nullptr;
std::mutex own_pool_made;

OwnPool* get_own_pool() {
    std::lock_guard<std::mutex> lock(own_pool_made);
    if (own_pool == nullptr) {
        static const int registered = pthread_atfork(nullptr, nullptr, [] { own_pool = nullptr; });
        (void)registered;
        own_pool = new OwnPool;
    }
    return own_pool;
}

struct OpenMPCall {
    void (*work)(const Team&, void*);
    void* context;
    Barrier* barrier;
};

}  // namespace

void Team::barrier() const {
    if (size == 1) return;
    const int round = __atomic_load_n(&shared->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&shared->arrived, 1, __ATOMIC_ACQ_REL) == size) {
        __atomic_store_n(&shared->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&shared->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 0; __atomic_load_n(&shared->round, __ATOMIC_ACQUIRE) == round; ++spins) {
        if (spins < 2000) {
            pause_cpu();
        } else {
            sched_yield();  // more threads than cores: let the late one run
        }
    }
}

void run_team(int threads, void (*work)(const Team&, void*), void* context) {
    Barrier barrier;
    if (threads <= 1) {
        work_in(Team{0, 1, &barrier}, work, context);
        return;
    }
    const OpenMP& omp = openmp();
    if (omp.parallel != nullptr) {
        OpenMPCall call{work, context, &barrier};
        omp.parallel(
            [](void* p) {
                const OpenMPCall& c = *static_cast<OpenMPCall*>(p);
                const OpenMP& runtime = openmp();
                work_in(Team{runtime.thread_num(), runtime.num_threads(), c.barrier}, c.work, c.context);
            },
            &call, static_cast<unsigned>(threads), 0);
        return;
    }
    OwnPool* own = get_own_pool();
    if (own->busy.try_lock()) {
        own->pool.run(threads, work, context, &barrier);
        own->busy.unlock();
    } else {
        work_in(Team{0, 1, &barrier}, work,
                context);  // another thread has the pool; alone is as right, and the same bits
    }
}

int worthwhile(int threads, double nanoseconds) { return nanoseconds < 20e3 ? 1 : threads; }

int default_threads() {
    if (const char* set = getenv("OMP_NUM_THREADS")) {
        const int n = atoi(set);
        if (n > 0) return n;
    }
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) > 0) return CPU_COUNT(&cpus);
    const unsigned n = std::thread::hardware_concurrency();
    return n > 0 ? static_cast<int>(n) : 1;
}

std::string thread_runtime() {
    const OpenMP omp = wanted_openmp();  // not openmp(): asking must not fix the answer before torch is there
    return omp.parallel != nullptr ? "openmp: " + omp.path : "own pool";
}

std::string openmp_runtimes() {
    std::string lines;
    for (const std::string& path : loaded_openmp()) lines += (lines.empty() ? "" : "\n") + path;
    return lines;
}

void* workspace(size_t bytes) {
    struct Block {
        void* memory = nullptr;
        size_t size = 0;
        ~Block() { free(memory); }
    };
    static thread_local Block block;
    if (bytes <= block.size) return block.memory;
    free(block.memory);
    block = Block{};
    constexpr size_t huge = size_t{2} << 20;
    const size_t unit = bytes >= huge ? huge : 4096, size = (bytes + unit - 1) / unit * unit;
    if (posix_memalign(&block.memory, unit, size) != 0) {
        block.memory = nullptr;
        return nullptr;
    }
    if (unit == huge) madvise(block.memory, size, MADV_HUGEPAGE);
    block.size = size;
    return block.memory;
}

}  // namespace jpllm
