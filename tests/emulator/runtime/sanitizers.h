// What the runtime tells ASan and TSan about stacks, shared memory and order. The kernels are instrumented,
// the runtime is not: it is compiled without -fsanitize, but with DTK_EMULATOR_ADDRESS or
// DTK_EMULATOR_THREAD when the kernels have one. Without either macro all of this vanishes.
#pragma once

#include <cstddef>

#ifdef DTK_EMULATOR_ADDRESS
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef DTK_EMULATOR_THREAD
#include <sanitizer/tsan_interface.h>
#endif

namespace dtk_emulator::sanitizer {

#ifdef DTK_EMULATOR_ADDRESS
constexpr bool kAddress = true;
inline void poison(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void unpoison(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
// Around every switch: ASan must know which stack is live, or it takes the other stacks' frames for wild
// memory. A null `fake` says that the stack being left will not be continued.
inline void leave_stack(void** fake, const void* bottom, size_t bytes) {
  __sanitizer_start_switch_fiber(fake, bottom, bytes);
}
inline void enter_stack(void* fake, const void** old_bottom, size_t* old_bytes) {
  __sanitizer_finish_switch_fiber(fake, old_bottom, old_bytes);
}
#else
constexpr bool kAddress = false;
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
inline void leave_stack(void**, const void*, size_t) {}
inline void enter_stack(void*, const void**, size_t*) {}
#endif

// TSan sees each CUDA thread as a thread of its own (a "fiber"). Switching orders nothing: only an acquire
// of an address that another fiber released does.
#ifdef DTK_EMULATOR_THREAD
constexpr bool kThread = true;
inline void* create_fiber() { return __tsan_create_fiber(0); }
inline void destroy_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
inline void* current_fiber() { return __tsan_get_current_fiber(); }
inline void switch_fiber(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
inline void release(const void* tag) { __tsan_release(const_cast<void*>(tag)); }
inline void acquire(const void* tag) { __tsan_acquire(const_cast<void*>(tag)); }
#else
constexpr bool kThread = false;
inline void* create_fiber() { return nullptr; }
inline void destroy_fiber(void*) {}
inline void* current_fiber() { return nullptr; }
inline void switch_fiber(void*) {}
inline void release(const void*) {}
inline void acquire(const void*) {}
#endif

}  // namespace dtk_emulator::sanitizer
