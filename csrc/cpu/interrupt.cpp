#include "interrupt.h"

#include <chrono>

namespace dtk::cpu {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kInterval(50);

thread_local Watch::Question question = nullptr;
thread_local Clock::time_point due;

}  // namespace

Watch::Watch(Question q) : outer_(question) {
  question = q;
  due = Clock::now() + kInterval;
}

Watch::~Watch() { question = outer_; }

void checkpoint() {
  if (!question || Clock::now() < due) return;
  const bool give_up = question();
  due = Clock::now() + kInterval;
  if (give_up) throw Interrupted();
}

}  // namespace dtk::cpu
