// Everything through which CUDA threads meet: barriers, warp collectives, atomics, fences.
#pragma once

#include <cstring>
#include <type_traits>

#include "language.h"

namespace dtk_emulator {

enum class BarrierKind : uint8_t { plain, any, all, count };
int barrier(BarrierKind kind, bool predicate, Location where);

enum class Collective : uint8_t {
  syncwarp,
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  ballot,
  any,
  all,
  match_any,
  match_all,
  min_unsigned,
  max_unsigned,
  min_signed,
  max_signed,
  add,
  bit_and,
  bit_or,
  bit_xor,
};
uint64_t collective(Collective kind, unsigned mask, uint64_t value, int argument, int width, Location where);

void atomic_begin(const void* address, size_t bytes, Location where);  // a scheduling point
void atomic_end(bool changed);                                         // a change counts as progress
void fence(Location where);
void yield(Location where);
unsigned lane();
uint64_t clock_ticks();
[[noreturn]] void trap(Location where);

template <typename T>
inline uint64_t to_bits(T value) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8, "collectives carry at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <typename T>
inline T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace dtk_emulator

inline void __syncthreads(dtk_emulator::Location where = {}) {
  dtk_emulator::barrier(dtk_emulator::BarrierKind::plain, false, where);
}
inline int __syncthreads_or(int predicate, dtk_emulator::Location where = {}) {
  return dtk_emulator::barrier(dtk_emulator::BarrierKind::any, predicate != 0, where);
}
inline int __syncthreads_and(int predicate, dtk_emulator::Location where = {}) {
  return dtk_emulator::barrier(dtk_emulator::BarrierKind::all, predicate != 0, where);
}
inline int __syncthreads_count(int predicate, dtk_emulator::Location where = {}) {
  return dtk_emulator::barrier(dtk_emulator::BarrierKind::count, predicate != 0, where);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, dtk_emulator::Location where = {}) {
  dtk_emulator::collective(dtk_emulator::Collective::syncwarp, mask, 0, 0, 32, where);
}

#define DTK_EMULATOR_SHUFFLE(name, kind)                                                                   \
  template <typename T>                                                                                    \
  inline T name(unsigned mask, T value, int argument, int width = 32, dtk_emulator::Location where = {}) { \
    static_assert(std::is_arithmetic<T>::value, "CUDA shuffles arithmetic types only");                    \
    return dtk_emulator::from_bits<T>(dtk_emulator::collective(                                            \
        dtk_emulator::Collective::kind, mask, dtk_emulator::to_bits(value), argument, width, where));      \
  }
DTK_EMULATOR_SHUFFLE(__shfl_sync, shuffle)
DTK_EMULATOR_SHUFFLE(__shfl_up_sync, shuffle_up)
DTK_EMULATOR_SHUFFLE(__shfl_down_sync, shuffle_down)
DTK_EMULATOR_SHUFFLE(__shfl_xor_sync, shuffle_xor)
#undef DTK_EMULATOR_SHUFFLE

#define DTK_EMULATOR_VOTE(R, name, kind)                                                                    \
  inline R name(unsigned mask, int predicate, dtk_emulator::Location where = {}) {                          \
    return R(dtk_emulator::collective(dtk_emulator::Collective::kind, mask, predicate != 0, 0, 32, where)); \
  }
DTK_EMULATOR_VOTE(unsigned, __ballot_sync, ballot)
DTK_EMULATOR_VOTE(int, __any_sync, any)
DTK_EMULATOR_VOTE(int, __all_sync, all)
#undef DTK_EMULATOR_VOTE

template <typename T>
inline unsigned __match_any_sync(unsigned mask, T value, dtk_emulator::Location where = {}) {
  return unsigned(dtk_emulator::collective(dtk_emulator::Collective::match_any, mask,
                                           dtk_emulator::to_bits(value), 0, 32, where));
}
template <typename T>
inline unsigned __match_all_sync(unsigned mask, T value, int* equal, dtk_emulator::Location where = {}) {
  unsigned lanes = unsigned(dtk_emulator::collective(dtk_emulator::Collective::match_all, mask,
                                                     dtk_emulator::to_bits(value), 0, 32, where));
  *equal = lanes != 0;
  return lanes;
}

#define DTK_EMULATOR_REDUCE(T, name, kind)                                                                   \
  inline T name(unsigned mask, T value, dtk_emulator::Location where = {}) {                                 \
    return T(dtk_emulator::collective(dtk_emulator::Collective::kind, mask, uint64_t(int64_t(value)), 0, 32, \
                                      where));                                                               \
  }
DTK_EMULATOR_REDUCE(unsigned, __reduce_min_sync, min_unsigned)
DTK_EMULATOR_REDUCE(unsigned, __reduce_max_sync, max_unsigned)
DTK_EMULATOR_REDUCE(unsigned, __reduce_add_sync, add)
DTK_EMULATOR_REDUCE(int, __reduce_min_sync, min_signed)
DTK_EMULATOR_REDUCE(int, __reduce_max_sync, max_signed)
DTK_EMULATOR_REDUCE(int, __reduce_add_sync, add)
DTK_EMULATOR_REDUCE(unsigned, __reduce_and_sync, bit_and)
DTK_EMULATOR_REDUCE(unsigned, __reduce_or_sync, bit_or)
DTK_EMULATOR_REDUCE(unsigned, __reduce_xor_sync, bit_xor)
#undef DTK_EMULATOR_REDUCE

// The set of active lanes is unspecified on the device; the calling lane alone is the least a kernel may
// rely on.
inline unsigned __activemask() { return 1u << dtk_emulator::lane(); }

// Atomics are relaxed, as on the device: they order nothing but themselves, and TSan holds kernels to that.
namespace dtk_emulator {

template <typename T, typename F>
inline T read_modify_write(T* address, F next, Location where) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA has 32- and 64-bit atomics");
  atomic_begin(address, sizeof(T), where);
  T before, after;
  __atomic_load(address, &before, __ATOMIC_RELAXED);
  do {
    after = next(before);
  } while (!__atomic_compare_exchange(address, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  atomic_end(to_bits(before) != to_bits(after));
  return before;
}

// Keeps the value argument out of deduction, so that atomicAdd(unsigned*, 1) converts as it does in CUDA.
template <typename T>
struct identity {
  using type = T;
};
template <typename T>
using same = typename identity<T>::type;

}  // namespace dtk_emulator

#define DTK_EMULATOR_ATOMIC(name, allowed, expression)                                        \
  template <typename T>                                                                       \
  inline T name(T* address, dtk_emulator::same<T> value, dtk_emulator::Location where = {}) { \
    static_assert(allowed, "CUDA has no " #name " for this type");                            \
    return dtk_emulator::read_modify_write(                                                   \
        address,                                                                              \
        [value](T old) {                                                                      \
          (void)old;                                                                          \
          return T(expression);                                                               \
        },                                                                                    \
        where);                                                                               \
  }
// Sums of integers wrap around, hence the detour through uint64_t where signed overflow would be undefined.
template <typename T>
inline T dtk_emulator_sum(T a, T b) {
  if constexpr (std::is_integral<T>::value) {
    return T(uint64_t(a) + uint64_t(b));
  } else {
    return a + b;
  }
}
DTK_EMULATOR_ATOMIC(atomicAdd, std::is_arithmetic<T>::value, dtk_emulator_sum(old, value))
DTK_EMULATOR_ATOMIC(atomicSub, std::is_integral<T>::value, uint64_t(old) - uint64_t(value))
DTK_EMULATOR_ATOMIC(atomicMin, std::is_integral<T>::value, value < old ? value : old)
DTK_EMULATOR_ATOMIC(atomicMax, std::is_integral<T>::value, old < value ? value : old)
DTK_EMULATOR_ATOMIC(atomicAnd, std::is_integral<T>::value, old& value)
DTK_EMULATOR_ATOMIC(atomicOr, std::is_integral<T>::value, old | value)
DTK_EMULATOR_ATOMIC(atomicXor, std::is_integral<T>::value, old ^ value)
DTK_EMULATOR_ATOMIC(atomicExch, std::is_arithmetic<T>::value, value)
DTK_EMULATOR_ATOMIC(atomicInc, (std::is_same<T, unsigned>::value), old >= value ? 0 : old + 1)
DTK_EMULATOR_ATOMIC(atomicDec, (std::is_same<T, unsigned>::value), old == 0 || old > value ? value : old - 1)
#undef DTK_EMULATOR_ATOMIC

template <typename T>
inline T atomicCAS(T* address, dtk_emulator::same<T> expected, dtk_emulator::same<T> value,
                   dtk_emulator::Location where = {}) {
  static_assert(std::is_integral<T>::value && sizeof(T) >= 2, "CUDA has atomicCAS for 16, 32 and 64 bits");
  dtk_emulator::atomic_begin(address, sizeof(T), where);
  T found = expected;
  bool stored = __atomic_compare_exchange(address, &found, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  dtk_emulator::atomic_end(stored && expected != value);
  return found;
}

// A relaxed load of one word that atomics may change meanwhile, as in csrc/dtk/config.h.
template <typename T>
inline T dtk_load_relaxed(const T* address, dtk_emulator::Location where = {}) {
  dtk_emulator::atomic_begin(address, sizeof(T), where);
  T value;
  __atomic_load(address, &value, __ATOMIC_RELAXED);
  dtk_emulator::atomic_end(false);
  return value;
}

inline void __threadfence(dtk_emulator::Location where = {}) { dtk_emulator::fence(where); }
inline void __threadfence_block(dtk_emulator::Location where = {}) { dtk_emulator::fence(where); }
inline void __threadfence_system(dtk_emulator::Location where = {}) { dtk_emulator::fence(where); }
inline void __nanosleep(unsigned, dtk_emulator::Location where = {}) { dtk_emulator::yield(where); }
[[noreturn]] inline void __trap(dtk_emulator::Location where = {}) { dtk_emulator::trap(where); }
inline long long clock64() { return (long long)dtk_emulator::clock_ticks(); }

// Cache hints change no value.
#define DTK_EMULATOR_LOAD(name) \
  template <typename T>         \
  inline T name(const T* p) {   \
    return *p;                  \
  }
#define DTK_EMULATOR_STORE(name)                        \
  template <typename T>                                 \
  inline void name(T* p, dtk_emulator::same<T> value) { \
    *p = value;                                         \
  }
DTK_EMULATOR_LOAD(__ldg)
DTK_EMULATOR_LOAD(__ldca)
DTK_EMULATOR_LOAD(__ldcg)
DTK_EMULATOR_LOAD(__ldcs)
DTK_EMULATOR_LOAD(__ldlu)
DTK_EMULATOR_LOAD(__ldcv)
DTK_EMULATOR_STORE(__stwb)
DTK_EMULATOR_STORE(__stcg)
DTK_EMULATOR_STORE(__stcs)
DTK_EMULATOR_STORE(__stwt)
#undef DTK_EMULATOR_LOAD
#undef DTK_EMULATOR_STORE
