// The only file that knows which compiler reads the kernels: nvcc (the wheel), NVRTC (CuPy users
// without a toolkit), g++ with the emulator (tests), or g++ alone (the CPU passes, which share the
// mathematics but no kernel).
//
// Two rules keep one source good for all four:
//   - shared memory comes only from DTK_SHARED and DTK_DYNAMIC_SHARED;
//   - a kernel is launched only through csrc/cuda/launch.h, never with <<<>>>.
#pragma once

#if defined(DTK_EMULATOR)
#include "emulator.h"  // defines the CUDA language, its built-ins, DTK_SHARED and DTK_DYNAMIC_SHARED
#define DTK_HOST_DEVICE

#elif defined(__CUDACC_RTC__)
// NVRTC sees no host headers at all, so the integer types are spelt out here.
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define DTK_HOST_DEVICE __host__ __device__

#elif defined(__CUDACC__)
#include <cuda_runtime.h>

#include <cstdint>
#define DTK_HOST_DEVICE __host__ __device__

#else
#include <cstdint>
#define DTK_HOST_DEVICE
// Of this unit alone: the CPU passes are compiled for several instruction sets, and the linker must not
// take one's copy for another.
#define DTK_INLINE static inline
#endif

#if defined(__CUDACC__)
#define DTK_SHARED(T, name, count) __shared__ T name[count]
// One untyped symbol serves every kernel: typed extern arrays of one name clash across instantiations.
#define DTK_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char dtk_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(dtk_dynamic_shared)
#endif

// Single instructions that CUDA C++ has no name for.
//   inverse_root    1 / sqrt(x) of a normal number to about its last bit: rsqrtf() asks for subnormals first.
//   spread_signs    byte i of the result is 0xff where the top bit is set of the byte of x that nibble i of
//   the
//                   selector names, less 8; else 0. (__byte_perm() knows no signs.)
#if defined(DTK_EMULATOR)
namespace dtk {
inline float inverse_root(float x) { return rsqrtf(x); }
template <uint32_t kSelector>
inline uint32_t spread_signs(uint32_t x) {
  static_assert((kSelector & 0xcccc) == 0x8888, "signs of the first operand");
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= (x >> 8 * (kSelector >> 4 * i & 3) & 0x80u) / 0x80u * 0xffu << 8 * i;
  return result;
}
}  // namespace dtk
#elif defined(__CUDACC__)
namespace dtk {
__device__ inline float inverse_root(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
template <uint32_t kSelector>
__device__ inline uint32_t spread_signs(uint32_t x) {
  uint32_t y;
  asm("prmt.b32 %0, %1, 0, %2;" : "=r"(y) : "r"(x), "n"(kSelector));
  return y;
}
}  // namespace dtk
#endif

#if defined(__CUDACC__)
// A load that may meet other threads' atomics; the emulator has its own.
template <typename T>
__device__ inline T dtk_load_relaxed(const T* address) {
  return *static_cast<const volatile T*>(address);
}
#endif

#if !defined(DTK_INLINE)
#define DTK_INLINE DTK_HOST_DEVICE inline
#endif

// Counts work on the emulator, for example DTK_COUNT(candidates, n); costs nothing on a device.
#if !defined(DTK_COUNT)
#define DTK_COUNT(name, n) static_cast<void>(n)
#endif
