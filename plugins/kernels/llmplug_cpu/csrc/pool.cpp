#include "pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

namespace llmplug {
namespace {

// A worker that finds no work looks again this many times (about 60 us at 3 GHz) before it sleeps:
// longer than the gaps between the ops of one step, short enough that an idle engine costs nothing.
constexpr int kSpins = 2000;
// A caller that waits for a worker sleeps after this many looks (about 60 us): the worker has lost
// its core to somebody else, and a core that falls idle takes it over at once, while one that
// spins or yields keeps it waiting for milliseconds.
constexpr int kCallerSpins = 2000;

class Pool {
 public:
  explicit Pool(int num_threads) : num_threads_(num_threads) {
    for (int i = 1; i < num_threads; ++i) std::thread([this] { work(); }).detach();
  }

  int num_threads() const { return num_threads_; }

  void run(int num_tasks, Task task, void* context) {
    if (num_threads_ == 1 || num_tasks == 1 || num_tasks >= kMaxTasks || !busy_.try_lock()) {
      for (int i = 0; i < num_tasks; ++i) task(context, i);
      return;
    }
    task_ = task;
    context_ = context;
    num_done_.store(0, std::memory_order_relaxed);
    const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 40) + 1;
    ticket_.store(generation << 40 | uint64_t(num_tasks) << 20);  // sequentially consistent
    if (num_sleeping_.load() > 0) {
      { std::lock_guard<std::mutex> guard(sleep_mutex_); }
      wake_.notify_all();
    }
    while (take_one()) {
    }
    wait_done(num_tasks);
    busy_.unlock();
  }

 private:
  // The ticket holds generation (24 bits), number of tasks (20), next task (20). A thread owns a
  // task once it has counted the ticket up; the job cannot end, nor its fields change, before that
  // task is reported done.
  static constexpr int kMaxTasks = 1 << 20;

  static bool has_work(uint64_t ticket) {
    return (ticket & (kMaxTasks - 1)) < (ticket >> 20 & (kMaxTasks - 1));
  }

  bool take_one() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (has_work(ticket)) {
      if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
        task_(context_, int(ticket & (kMaxTasks - 1)));
        num_done_.fetch_add(1);  // sequentially consistent, as the look at the caller after it
        if (is_caller_asleep_.load()) {
          { std::lock_guard<std::mutex> guard(sleep_mutex_); }
          done_.notify_one();
        }
        return true;
      }
    }
    return false;
  }

  void wait_done(int num_tasks) {
    for (int spins = 0; spins < kCallerSpins; ++spins) {
      if (num_done_.load(std::memory_order_acquire) == num_tasks) return;
      _mm_pause();
    }
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    is_caller_asleep_.store(true);
    done_.wait(lock, [&] { return num_done_.load() == num_tasks; });
    is_caller_asleep_.store(false);
  }

  void work() {
    for (;;) {
      int spins = 0;
      while (!take_one()) {
        if (++spins < kSpins) {
          _mm_pause();
          continue;
        }
        std::unique_lock<std::mutex> lock(sleep_mutex_);
        num_sleeping_.fetch_add(1);
        wake_.wait(lock, [this] { return has_work(ticket_.load()); });
        num_sleeping_.fetch_sub(1);
        spins = 0;
      }
    }
  }

  const int num_threads_;
  Task task_ = nullptr;
  void* context_ = nullptr;
  std::mutex busy_;
  std::mutex sleep_mutex_;
  std::condition_variable wake_;  // of workers, when there are tasks
  std::condition_variable done_;  // of the caller, when the tasks are done
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int> num_done_{0};
  alignas(64) std::atomic<int> num_sleeping_{0};
  std::atomic<bool> is_caller_asleep_{false};
};

std::atomic<Pool*> pool{nullptr};
std::mutex pool_mutex;
int wanted_threads = 0;

int num_allowed_cpus() {
  cpu_set_t cpus;
  return sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
}

// Pools live as long as the process: their workers are detached and may be asleep in one.
Pool& current_pool() {
  Pool* current = pool.load(std::memory_order_acquire);
  if (current != nullptr) return *current;
  std::lock_guard<std::mutex> guard(pool_mutex);
  current = pool.load(std::memory_order_acquire);
  if (current == nullptr) {
    // After a fork the child has no workers: it starts its own.
    static const int once = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
    (void)once;
    const int allowed = num_allowed_cpus();
    current = new Pool(wanted_threads > 0 && wanted_threads < allowed ? wanted_threads : allowed);
    pool.store(current, std::memory_order_release);
  }
  return *current;
}

struct Buffer {
  void* data = nullptr;
  long long size = 0;
  ~Buffer() { std::free(data); }
};

}  // namespace

void run_tasks(int num_tasks, Task task, void* context) {
  if (num_tasks > 0) current_pool().run(num_tasks, task, context);
}

int num_threads() { return current_pool().num_threads(); }

void* scratch(Scratch use, long long num_bytes) {
  static thread_local Buffer buffers[int(Scratch::kCount)];
  Buffer& buffer = buffers[int(use)];
  if (buffer.size < num_bytes) {
    std::free(buffer.data);
    buffer.size = 0;
    const long long rounded = (num_bytes + num_bytes / 2 + 4095) / 4096 * 4096;
    buffer.data = std::aligned_alloc(4096, rounded);
    if (buffer.data == nullptr) throw std::bad_alloc();
    buffer.size = rounded;
  }
  return buffer.data;
}

}  // namespace llmplug

// Sets the number of threads before the first op runs; later calls do nothing. Never more threads
// than the process may use CPUs.
extern "C" int llmplug_start_threads(int threads) {
  {
    std::lock_guard<std::mutex> guard(llmplug::pool_mutex);
    llmplug::wanted_threads = threads;
  }
  return llmplug::num_threads();
}
