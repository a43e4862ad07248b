// The stacks that CUDA threads run on, kept from launch to launch.
#pragma once

#include <sys/mman.h>

#include <memory>
#include <vector>

#include "context.h"
#include "sanitizers.h"

namespace dtk_emulator {

constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = 256 << 10;  // address space; only touched pages take memory

// Fresh zero pages. Under TSan a fresh mapping also has no history.
inline char* map_pages(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
}

struct Stack {
  char* base = nullptr;
  Context context{};
  void* fake = nullptr;         // ASan's handle while the stack is left
  void* fiber = nullptr;        // TSan's identity of whoever runs here
  void* fence_fiber = nullptr;  // see sync.cpp
  Stack* next = nullptr;
};

// A free list without allocation, because it is used while running on the stacks it holds.
//
// Without TSan the stack freed last is taken first: its lines are in cache, and a kernel that never waits
// runs all its threads on one stack. Under TSan it is the other way round: a stack keeps its fiber, so two
// CUDA threads that use one stack in turn are ordered, and with them, through their barriers, their blocks.
// The longer a stack rests, the fewer races between blocks that order hides.
class Stacks {
 public:
  bool reserve(size_t count) {
    while (all_.size() < count) {
      char* guard = map_pages(kStackBytes + kPage);
      if (!guard || mprotect(guard, kPage, PROT_NONE)) return false;
      all_.push_back(std::make_unique<Stack>());
      Stack* stack = all_.back().get();
      stack->base = guard + kPage;
      stack->fiber = sanitizer::create_fiber();
      give(stack);
    }
    return true;
  }

  Stack* take() {
    Stack* stack = head_;
    head_ = stack->next;
    if (!head_) tail_ = nullptr;
    stack->fake = nullptr;
    return stack;
  }

  void give(Stack* stack) {
    if (!head_) {
      stack->next = nullptr;
      head_ = tail_ = stack;
    } else if (sanitizer::kThread) {
      stack->next = nullptr;
      tail_ = tail_->next = stack;
    } else {
      stack->next = head_;
      head_ = stack;
    }
  }

  // TSan: everything that happened on these stacks precedes what the current fiber, `self`, does next.
  void order_all_before(void* self, const void* tag) {
    if (!sanitizer::kThread) return;
    for (const auto& stack : all_) {
      sanitizer::switch_fiber(stack->fiber);
      sanitizer::release(tag);
    }
    sanitizer::switch_fiber(self);
    sanitizer::acquire(tag);
  }

  // For a stack abandoned in the middle of a kernel: neither its frames nor its fiber can be used again.
  void destroy(Stack* stack) {
    sanitizer::unpoison(stack->base, kStackBytes);
    sanitizer::destroy_fiber(stack->fiber);
    if (stack->fence_fiber) sanitizer::destroy_fiber(stack->fence_fiber);
    munmap(stack->base - kPage, kStackBytes + kPage);
    for (size_t i = 0; i < all_.size(); ++i) {
      if (all_[i].get() == stack) {
        all_[i].swap(all_.back());
        all_.pop_back();
        return;
      }
    }
  }

 private:
  std::vector<std::unique_ptr<Stack>> all_;
  Stack* head_ = nullptr;
  Stack* tail_ = nullptr;
};

}  // namespace dtk_emulator
