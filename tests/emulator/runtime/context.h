// Switching from one stack to another. Hand-written where the tests run, because swapcontext makes a system
// call to save the signal mask, and a transform switches stacks millions of times.
//
// Only the registers that a function call must preserve are saved: to the compiler a switch is an ordinary
// call that returns later. Rounding modes are not saved, since kernels never change them.
#pragma once

#include <cstddef>
#include <cstdint>

#if !(defined(__x86_64__) || defined(__aarch64__)) || defined(DTK_EMULATOR_UCONTEXT)
#include <ucontext.h>
#define DTK_EMULATOR_PORTABLE_SWITCH
#endif

namespace dtk_emulator {

#ifdef DTK_EMULATOR_PORTABLE_SWITCH

using Context = ucontext_t;

inline void context_prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

inline void context_switch(Context& from, Context& to) { swapcontext(&from, &to); }

#else

struct Context {
  void** stack_pointer;
};

extern "C" void dtk_emulator_switch(void*** save, void** load);

// Lays out the stack as dtk_emulator_switch leaves it, with `entry` as the address to return to. The frame
// pointer and the return address of `entry` are null, which is where stack traces end.
inline void context_prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15));
#if defined(__x86_64__)
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);  // popped by ret, which leaves rsp = 8 mod 16, as after a call
  for (int i = 0; i < 6; ++i) *--top = nullptr;
#else
  for (int i = 0; i < 20; ++i) *--top = nullptr;
  top[11] = reinterpret_cast<void*>(entry);  // x30, the link register
#endif
  context.stack_pointer = top;
}

inline void context_switch(Context& from, Context& to) {
  dtk_emulator_switch(&from.stack_pointer, to.stack_pointer);
}

#endif

}  // namespace dtk_emulator
