#include "pool.h"

#include <pthread.h>

#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace dtk::cpu {

namespace {

class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(int helpers, TaskQueue& queue, Participant participant) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      hire(helpers);
      queue_ = &queue;
      participant_ = participant;
      failure_ = nullptr;
      open_seats_ = helpers < int(workers_.size()) ? helpers : int(workers_.size());
    }
    for (int i = 0; i < helpers; i++) wake_.notify_one();
    std::exception_ptr failure;
    try {
      participant.call(participant.body, queue);
    } catch (...) {
      failure = std::current_exception();
      queue.abandon();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    open_seats_ = 0;  // whoever has not begun yet, will not
    done_.wait(lock, [this] { return busy_ == 0; });
    if (!failure) failure = failure_;
    failure_ = nullptr;
    lock.unlock();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  void hire(int helpers) {
    try {
      while (int(workers_.size()) < helpers) workers_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      // No more threads to be had: fewer helpers give the same result.
    }
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || open_seats_ > 0; });
      if (stopping_) return;
      open_seats_--;
      busy_++;
      TaskQueue& queue = *queue_;
      const Participant participant = participant_;
      lock.unlock();
      std::exception_ptr failure;
      try {
        participant.call(participant.body, queue);
      } catch (...) {
        failure = std::current_exception();
        queue.abandon();
      }
      lock.lock();
      if (failure && !failure_) failure_ = failure;
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  TaskQueue* queue_ = nullptr;
  Participant participant_{};
  std::exception_ptr failure_;
  int open_seats_ = 0, busy_ = 0;
  bool stopping_ = false;
};

// The process's pool. `taken` is held by the thread whose section the pool serves.
std::atomic<bool> taken{false};
Pool* pool = nullptr;  // touched only by the holder of `taken`

// In a forked child the workers do not exist and the mutex may be locked for ever: forget both. The old
// pool leaks, since its destructor would wait for threads that are not there.
void reset_in_child() {
  pool = nullptr;
  taken.store(false);
}

// At exit the workers are joined, so that none runs code of a library that is being unloaded. The pool stays
// taken: a thread that is still alive then works alone.
struct Owner {
  Owner() { pthread_atfork(nullptr, nullptr, reset_in_child); }
  ~Owner() {
    if (!taken.exchange(true)) delete pool;
  }
} owner;

struct Turn {
  ~Turn() { taken.store(false, std::memory_order_release); }
};

}  // namespace

void run_participants(int threads, int64_t tasks, Participant participant) {
  TaskQueue queue(tasks);
  const int helpers = int(tasks < threads ? tasks : threads) - 1;
  if (helpers <= 0 || taken.exchange(true, std::memory_order_acquire)) {
    participant.call(participant.body, queue);
    return;
  }
  Turn turn;
  if (!pool) pool = new Pool;
  pool->run(helpers, queue, participant);
}

}  // namespace dtk::cpu
