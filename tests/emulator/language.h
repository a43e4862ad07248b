// Qualifiers, vector types, built-in variables, shared memory and counters.
#pragma once

#include <cstddef>
#include <cstdint>

// Kernels are exported, so that the runtime can name them in errors and statistics through dladdr.
#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// Every shared array must come from the two macros below; this makes a forgotten one a compile error.
#define __shared__ static_assert(false, "use DTK_SHARED or DTK_DYNAMIC_SHARED");

// Vector types with CUDA's alignments: a float4 load from an address that is not a multiple of 16 is an
// error on the device, and under UBSan here. Pairs and fours are stored as a whole.
#define DTK_EMULATOR_WHOLE(name)                  \
  name() = default;                               \
  name(const name&) = default;                    \
  name& operator=(const name& value) {            \
    __builtin_memcpy(this, &value, sizeof *this); \
    return *this;                                 \
  }
#define DTK_EMULATOR_VECTOR(name, T, bytes)                          \
  struct alignas(sizeof(T)) name##1 { T x; };                        \
  struct alignas(2 * bytes) name##2 {                                \
    T x, y;                                                          \
    DTK_EMULATOR_WHOLE(name##2)                                      \
  };                                                                 \
  struct name##3 { T x, y, z; };                                     \
  struct alignas(4 * bytes > 16 ? 16 : 4 * bytes) name##4 {          \
    T x, y, z, w;                                                    \
    DTK_EMULATOR_WHOLE(name##4)                                      \
  };                                                                 \
  inline name##1 make_##name##1(T x) { return {x}; }                 \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
DTK_EMULATOR_VECTOR(char, signed char, 1)
DTK_EMULATOR_VECTOR(uchar, unsigned char, 1)
DTK_EMULATOR_VECTOR(short, short, 2)
DTK_EMULATOR_VECTOR(ushort, unsigned short, 2)
DTK_EMULATOR_VECTOR(int, int, 4)
DTK_EMULATOR_VECTOR(uint, unsigned, 4)
DTK_EMULATOR_VECTOR(float, float, 4)
DTK_EMULATOR_VECTOR(longlong, long long, 8)
DTK_EMULATOR_VECTOR(ulonglong, unsigned long long, 8)
DTK_EMULATOR_VECTOR(double, double, 8)
#undef DTK_EMULATOR_VECTOR
#undef DTK_EMULATOR_WHOLE

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

// One launch runs at a time, on one OS thread, so the built-in variables are plain globals that the
// scheduler rewrites whenever another CUDA thread continues. They are not const: a compiler may keep a
// const global in a register across a barrier, and that register belongs to no particular thread.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace dtk_emulator {

// Where a kernel called into the runtime. As a default argument it records the caller's line.
struct Location {
  const char* file;
  int line;
  constexpr Location(const char* file_ = __builtin_FILE(), int line_ = __builtin_LINE())
      : file(file_), line(line_) {}
};

// A declaration of shared memory; its address is the identity of the array within a block.
struct SharedSite {
  const char* name;
  Location where;
};
void* shared_array(const SharedSite* site, size_t bytes, size_t alignment);
void* shared_dynamic(size_t alignment, Location where = Location());

// A DTK_COUNT statement. Constant-initialised on purpose: a static with a guard would order the thread
// that runs it first before all others, and so hide races from TSan.
struct CounterSite {
  const char* name;
  int slot;  // 0: not yet assigned by the runtime
};
void count(CounterSite* site, uint64_t n);

// Names the next kernel that this OS thread launches; without it the name comes from dladdr.
void name_next_kernel(const char* name);

}  // namespace dtk_emulator

// Every thread executes the declaration; the first of a block allocates, the others find the same array.
#define DTK_SHARED(T, name, count)                                                   \
  static ::dtk_emulator::SharedSite dtk_site_##name = {#name, {__FILE__, __LINE__}}; \
  auto& name = *static_cast<T(*)[count]>(                                            \
      ::dtk_emulator::shared_array(&dtk_site_##name, sizeof(T) * (count), alignof(T)))
#define DTK_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::dtk_emulator::shared_dynamic(alignof(T)))

// Adds n to the counter `name` of the running kernel (statistics only; empty under every other compiler).
#define DTK_COUNT(name, n)                                       \
  do {                                                           \
    static ::dtk_emulator::CounterSite dtk_counter = {#name, 0}; \
    ::dtk_emulator::count(&dtk_counter, uint64_t(n));            \
  } while (0)
#define DTK_KERNEL_NAME(name) ::dtk_emulator::name_next_kernel(name)
