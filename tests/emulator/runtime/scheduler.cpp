// Which CUDA thread runs next, and how it gets its stack.
#include "machine.h"
#include "traffic.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace dtk_emulator {

Machine machine;

namespace {

void thread_main();

void make_current(Thread* thread) {
  machine.current = thread;
  thread->state = State::running;
  threadIdx = thread->index;
  blockIdx = thread->block->index;
}

void entered(void* fake) {
  const void* bottom = nullptr;
  size_t bytes = 0;
  sanitizer::enter_stack(fake, &bottom, &bytes);
  if (machine.left_main) machine.main_bottom = bottom, machine.main_bytes = bytes;
}

// Returns the thread to continue with, or null to go back to launch().
Thread* finish(Thread* self) {
  Block& block = *self->block;
  Warp& warp = block.warps[self->warp];
  for (unsigned rest = warp.open; rest; rest &= rest - 1) {
    Group& g = warp.groups[__builtin_ctz(rest)];
    if (g.mask >> self->lane & 1) fail(kReturnedLane, g.where);
  }
  self->state = State::finished;
  self->stack = nullptr;
  warp.finished |= 1u << self->lane;
  machine.idle = 0;
  if (!--block.alive) {
    traffic::met(block);
    machine.done = &block;
    return nullptr;
  }
  // __syncthreads waits for the threads that have not returned, as CUDA defines it.
  if (block.waiting == block.alive) open_barrier(block, nullptr);
  return pop();
}

void thread_main() {
  entered(nullptr);
  for (;;) {
    Thread* self = machine.current;
    Stack* stack = self->stack;
    sanitizer::acquire(&machine.start_tag);
    machine.invoke(machine.argument);
    Thread* next = finish(self);
    if (!sanitizer::kThread && next && next->state == State::unstarted) {
      next->stack = stack;  // no need to switch: the next thread starts where this one ended
      make_current(next);
      continue;
    }
    machine.stacks.give(stack);
    resume(stack, next, true);
  }
}

}  // namespace

void resume(Stack* from, Thread* to, bool from_ends) {
  ++machine.switches;
  machine.streak = 0;
  machine.left_main = !from;
  Stack* target = nullptr;
  if (to) {
    if (to->state == State::unstarted) {
      to->stack = machine.stacks.take();
      context_prepare(to->stack->context, to->stack->base, kStackBytes, thread_main);
    }
    make_current(to);
    target = to->stack;
  }
  sanitizer::leave_stack(from_ends ? nullptr
                         : from    ? &from->fake
                                   : &machine.main_fake,
                         target ? target->base : machine.main_bottom,
                         target ? kStackBytes : machine.main_bytes);
  sanitizer::switch_fiber(target ? target->fiber : machine.main_fiber);
  context_switch(from ? from->context : machine.main, target ? target->context : machine.main);
  entered(from ? from->fake : machine.main_fake);
}

void wait() {
  Thread* self = machine.current;
  Thread* next = pop();
  if (next == self) {
    self->state = State::running;
    return;
  }
  resume(self->stack, next);
}

[[noreturn]] void fail(const Diagnosis& diagnosis, Location here, Location there) {
  machine.failure = &diagnosis;
  machine.here = here;
  machine.there = there;
  machine.culprit = machine.current;
  resume(machine.current->stack, nullptr);
  __builtin_trap();
}

}  // namespace dtk_emulator
