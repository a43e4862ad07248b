// Threads for the CPU passes.
#pragma once
#include <atomic>
#include <cstdint>

#include "interrupt.h"

namespace dtk::cpu {

// The tasks of one parallel section, handed out one at a time to whoever asks. The caller gives up between
// two.
class TaskQueue {
 public:
  explicit TaskQueue(int64_t count) : count_(count) {}
  bool next(int64_t& task) {
    checkpoint();
    task = next_.fetch_add(1, std::memory_order_relaxed);
    return task < count_;
  }
  void abandon() { next_.store(count_, std::memory_order_relaxed); }

 private:
  const int64_t count_;
  std::atomic<int64_t> next_{0};
};

// A participant takes tasks from the queue until it is empty.
struct Participant {
  void (*call)(const void* body, TaskQueue& queue);
  const void* body;
};

void run_participants(int threads, int64_t tasks, Participant participant);

// Runs body(queue) on up to `threads` threads, the caller among them, and returns when all have returned.
// The first exception of any of them is rethrown here.
//
// Workers wait in the kernel, never spinning: on a machine that is busy with data loading, threads that spin
// (OpenMP's) take the cores from those that work. A helper that wakes up late finds the queue empty; nobody
// waits for it unless it has begun. The pool serves one section at a time; a section begun meanwhile by
// another thread runs on that thread alone. A forked child starts with a pool of its own.
template <class Body>
void parallel(int threads, int64_t tasks, const Body& body) {
  run_participants(threads, tasks,
                   {[](const void* f, TaskQueue& queue) { (*static_cast<const Body*>(f))(queue); }, &body});
}

}  // namespace dtk::cpu
