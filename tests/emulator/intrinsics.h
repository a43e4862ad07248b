// Arithmetic intrinsics. None of them touches the machine: bits, float rounding, packed integers, DPX.
#pragma once

#include <cmath>
#include <limits>

#include "sync.h"

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }

inline unsigned long long __brevll(unsigned long long v) {
  unsigned long long r = 0;
  for (int i = 0; i < 64; ++i) r |= (v >> i & 1) << (63 - i);
  return r;
}
inline unsigned __brev(unsigned v) { return unsigned(__brevll(v) >> 32); }

// Each nibble of the selector names one byte of y:x; its top bit replicates that byte's sign instead.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    unsigned nibble = selector >> (4 * i) & 15;
    unsigned byte = unsigned(bytes >> (8 * (nibble & 7)) & 255);
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << (8 * i);
  }
  return r;
}

inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __mul24(int a, int b) {
  return int((int64_t(int32_t(unsigned(a) << 8)) >> 8) * (int64_t(int32_t(unsigned(b) << 8)) >> 8));
}
inline unsigned __usad(unsigned a, unsigned b, unsigned c) { return (a > b ? a - b : b - a) + c; }
inline unsigned __sad(int a, int b, unsigned c) {
  return unsigned(a > b ? unsigned(a) - unsigned(b) : unsigned(b) - unsigned(a)) + c;
}

inline int __float_as_int(float v) { return dtk_emulator::from_bits<int>(dtk_emulator::to_bits(v)); }
inline unsigned __float_as_uint(float v) {
  return dtk_emulator::from_bits<unsigned>(dtk_emulator::to_bits(v));
}
inline float __int_as_float(int v) { return dtk_emulator::from_bits<float>(dtk_emulator::to_bits(v)); }
inline float __uint_as_float(unsigned v) { return dtk_emulator::from_bits<float>(dtk_emulator::to_bits(v)); }
inline long long __double_as_longlong(double v) {
  return dtk_emulator::from_bits<long long>(dtk_emulator::to_bits(v));
}
inline double __longlong_as_double(long long v) {
  return dtk_emulator::from_bits<double>(dtk_emulator::to_bits(v));
}

// Round-to-nearest forms are the plain operators: the build passes -ffp-contract=off, so that no compiler
// fuses them. The directed forms compute the rounding error exactly and step by one unit where it says so.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float a) { return float(1.0 / std::sqrt(double(a))); }
inline float __frsqrt_rn(float a) { return rsqrtf(a); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }

namespace dtk_emulator {

// The float next to `nearest` on the wanted side of the exact value: `error` = exact - nearest, whose sign
// is all that matters. A double holds the product of two floats exactly, and a sum's sign of error too.
inline float step_down(float nearest, double error) {
  return error < 0 ? std::nextafter(nearest, -INFINITY) : nearest;
}
inline float step_up(float nearest, double error) {
  return error > 0 ? std::nextafter(nearest, INFINITY) : nearest;
}

// Knuth's two-sum: the exact rounding error of a + b.
inline double sum_error(float a, float b) {
  float s = a + b, bb = s - a;
  return double((a - (s - bb)) + (b - bb));
}

// Conversions saturate, and NaN becomes 0, as on the device; the C++ cast would be undefined.
template <typename I, typename F>
inline I saturate(F integral) {
  if (!(integral == integral)) return 0;
  if (integral <= F(std::numeric_limits<I>::min())) return std::numeric_limits<I>::min();
  if (integral >= F(std::numeric_limits<I>::max())) return std::numeric_limits<I>::max();
  return I(integral);
}

}  // namespace dtk_emulator

inline float __fadd_rd(float a, float b) {
  return dtk_emulator::step_down(a + b, dtk_emulator::sum_error(a, b));
}
inline float __fadd_ru(float a, float b) {
  return dtk_emulator::step_up(a + b, dtk_emulator::sum_error(a, b));
}
inline float __fsub_rd(float a, float b) { return __fadd_rd(a, -b); }
inline float __fsub_ru(float a, float b) { return __fadd_ru(a, -b); }
inline float __fmul_rd(float a, float b) {
  return dtk_emulator::step_down(a * b, double(a) * b - double(a * b));
}
inline float __fmul_ru(float a, float b) {
  return dtk_emulator::step_up(a * b, double(a) * b - double(a * b));
}
inline float __fsqrt_rd(float a) {
  float r = std::sqrt(a);
  return dtk_emulator::step_down(r, double(a) - double(r) * r);
}
inline float __fsqrt_ru(float a) {
  float r = std::sqrt(a);
  return dtk_emulator::step_up(r, double(a) - double(r) * r);
}
inline float __double2float_rd(double v) { return dtk_emulator::step_down(float(v), v - double(float(v))); }
inline float __double2float_ru(double v) { return dtk_emulator::step_up(float(v), v - double(float(v))); }
inline float __double2float_rn(double v) { return float(v); }

#define DTK_EMULATOR_CONVERT(F, prefix, I, name)                                              \
  inline I __##prefix##2##name##_rd(F v) { return dtk_emulator::saturate<I>(std::floor(v)); } \
  inline I __##prefix##2##name##_ru(F v) { return dtk_emulator::saturate<I>(std::ceil(v)); }  \
  inline I __##prefix##2##name##_rz(F v) { return dtk_emulator::saturate<I>(std::trunc(v)); } \
  inline I __##prefix##2##name##_rn(F v) { return dtk_emulator::saturate<I>(std::nearbyint(v)); }
DTK_EMULATOR_CONVERT(float, float, int, int)
DTK_EMULATOR_CONVERT(float, float, unsigned, uint)
DTK_EMULATOR_CONVERT(float, float, long long, ll)
DTK_EMULATOR_CONVERT(float, float, unsigned long long, ull)
DTK_EMULATOR_CONVERT(double, double, int, int)
DTK_EMULATOR_CONVERT(double, double, unsigned, uint)
DTK_EMULATOR_CONVERT(double, double, long long, ll)
#undef DTK_EMULATOR_CONVERT
inline float __int2float_rn(int v) { return float(v); }
inline float __uint2float_rn(unsigned v) { return float(v); }
inline float __ll2float_rn(long long v) { return float(v); }

// CUDA overloads minimum and maximum for every pair of arithmetic types, with the usual conversions for
// integers (an int meeting an unsigned becomes unsigned) and the IEEE rule that a number beats NaN.
#define DTK_EMULATOR_MINMAX(R, A, B)                \
  inline R min(A a, B b) {                          \
    R x = static_cast<R>(a), y = static_cast<R>(b); \
    return y < x ? y : x;                           \
  }                                                 \
  inline R max(A a, B b) {                          \
    R x = static_cast<R>(a), y = static_cast<R>(b); \
    return x < y ? y : x;                           \
  }
DTK_EMULATOR_MINMAX(int, int, int)
DTK_EMULATOR_MINMAX(unsigned, unsigned, unsigned)
DTK_EMULATOR_MINMAX(unsigned, int, unsigned)
DTK_EMULATOR_MINMAX(unsigned, unsigned, int)
DTK_EMULATOR_MINMAX(long, long, long)
DTK_EMULATOR_MINMAX(unsigned long, unsigned long, unsigned long)
DTK_EMULATOR_MINMAX(unsigned long, long, unsigned long)
DTK_EMULATOR_MINMAX(unsigned long, unsigned long, long)
DTK_EMULATOR_MINMAX(long long, long long, long long)
DTK_EMULATOR_MINMAX(unsigned long long, unsigned long long, unsigned long long)
DTK_EMULATOR_MINMAX(unsigned long long, long long, unsigned long long)
DTK_EMULATOR_MINMAX(unsigned long long, unsigned long long, long long)
#undef DTK_EMULATOR_MINMAX
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
inline double min(float a, double b) { return std::fmin(double(a), b); }
inline double max(float a, double b) { return std::fmax(double(a), b); }
inline double min(double a, float b) { return std::fmin(a, double(b)); }
inline double max(double a, float b) { return std::fmax(a, double(b)); }

namespace dtk_emulator {

// Applies f to each T in a 32-bit word. f computes in 64 bits, so that sums neither wrap nor overflow
// before f decides what to do about it; the result keeps its low bits.
template <typename T, typename F>
inline unsigned each(unsigned a, unsigned b, unsigned c, F f) {
  constexpr int bits = 8 * int(sizeof(T)), parts = 32 / bits;
  unsigned r = 0;
  for (int i = 0; i < parts; ++i) {
    int64_t value = f(int64_t(T(a >> (bits * i))), int64_t(T(b >> (bits * i))), int64_t(T(c >> (bits * i))));
    r |= unsigned(uint64_t(value) & (~0u >> (32 - bits))) << (bits * i);
  }
  return r;
}

template <typename T>
inline int64_t clamp(int64_t v) {
  constexpr int64_t low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  return v < low ? low : v > high ? high : v;
}

template <typename T>
inline int64_t wrap(int64_t v) {
  return int64_t(T(v));
}

}  // namespace dtk_emulator

// Packed integers: suffix 2 holds two halfwords, suffix 4 four bytes; s and u say signed and unsigned, a
// second s saturates. x, y and z are the operands of one part.
#define DTK_EMULATOR_PACKED(name, T, expression)                                                       \
  inline unsigned name(unsigned a, unsigned b) {                                                       \
    using U [[maybe_unused]] = T;                                                                      \
    return dtk_emulator::each<T>(a, b, 0,                                                              \
                                 [](int64_t x, int64_t y, int64_t) -> int64_t { return expression; }); \
  }
#define DTK_EMULATOR_PACKED_SET(n, S, U)                                                               \
  DTK_EMULATOR_PACKED(__vadd##n, U, x + y)                                                             \
  DTK_EMULATOR_PACKED(__vsub##n, U, x - y)                                                             \
  DTK_EMULATOR_PACKED(__vaddus##n, U, dtk_emulator::clamp<U>(x + y))                                   \
  DTK_EMULATOR_PACKED(__vsubus##n, U, dtk_emulator::clamp<U>(x - y))                                   \
  DTK_EMULATOR_PACKED(__vaddss##n, S, dtk_emulator::clamp<S>(x + y))                                   \
  DTK_EMULATOR_PACKED(__vsubss##n, S, dtk_emulator::clamp<S>(x - y))                                   \
  DTK_EMULATOR_PACKED(__vminu##n, U, x < y ? x : y)                                                    \
  DTK_EMULATOR_PACKED(__vmaxu##n, U, x < y ? y : x)                                                    \
  DTK_EMULATOR_PACKED(__vmins##n, S, x < y ? x : y)                                                    \
  DTK_EMULATOR_PACKED(__vmaxs##n, S, x < y ? y : x)                                                    \
  DTK_EMULATOR_PACKED(__vabsdiffu##n, U, x < y ? y - x : x - y)                                        \
  DTK_EMULATOR_PACKED(__vabsdiffs##n, S, x < y ? y - x : x - y)                                        \
  DTK_EMULATOR_PACKED(__vavgu##n, U, (x + y + 1) >> 1)                                                 \
  DTK_EMULATOR_PACKED(__vhaddu##n, U, (x + y) >> 1)                                                    \
  DTK_EMULATOR_PACKED(__vcmpeq##n, U, x == y ? -1 : 0)                                                 \
  DTK_EMULATOR_PACKED(__vcmpne##n, U, x != y ? -1 : 0)                                                 \
  DTK_EMULATOR_PACKED(__vcmpltu##n, U, x < y ? -1 : 0)                                                 \
  DTK_EMULATOR_PACKED(__vcmpleu##n, U, x <= y ? -1 : 0)                                                \
  DTK_EMULATOR_PACKED(__vcmpgtu##n, U, x > y ? -1 : 0)                                                 \
  DTK_EMULATOR_PACKED(__vcmpgeu##n, U, x >= y ? -1 : 0)                                                \
  DTK_EMULATOR_PACKED(__vcmplts##n, S, x < y ? -1 : 0)                                                 \
  DTK_EMULATOR_PACKED(__vcmples##n, S, x <= y ? -1 : 0)                                                \
  DTK_EMULATOR_PACKED(__vcmpgts##n, S, x > y ? -1 : 0)                                                 \
  DTK_EMULATOR_PACKED(__vcmpges##n, S, x >= y ? -1 : 0)                                                \
  DTK_EMULATOR_PACKED(__vseteq##n, U, x == y)                                                          \
  DTK_EMULATOR_PACKED(__vsetltu##n, U, x < y)                                                          \
  DTK_EMULATOR_PACKED(__vsetgtu##n, U, x > y)                                                          \
  inline unsigned __vneg##n(unsigned a) { return __vsub##n(0, a); }                                    \
  inline unsigned __vabs##n(unsigned a) {                                                              \
    return dtk_emulator::each<S>(a, 0, 0, [](int64_t x, int64_t, int64_t) { return x < 0 ? -x : x; }); \
  }
DTK_EMULATOR_PACKED_SET(2, int16_t, uint16_t)
DTK_EMULATOR_PACKED_SET(4, int8_t, uint8_t)
#undef DTK_EMULATOR_PACKED_SET
#undef DTK_EMULATOR_PACKED

// DPX: min or max of three, or of a sum (which wraps) and a third, optionally not below zero (relu).
#define DTK_EMULATOR_DPX3(W, T, suffix, relu, expression_of_v)                                             \
  inline W __vimin3_##suffix##relu(W a, W b, W c) {                                                        \
    return W(                                                                                              \
        dtk_emulator::each<T>(unsigned(a), unsigned(b), unsigned(c), [](int64_t x, int64_t y, int64_t z) { \
          int64_t v = x < y ? x : y;                                                                       \
          v = v < z ? v : z;                                                                               \
          return expression_of_v;                                                                          \
        }));                                                                                               \
  }                                                                                                        \
  inline W __vimax3_##suffix##relu(W a, W b, W c) {                                                        \
    return W(                                                                                              \
        dtk_emulator::each<T>(unsigned(a), unsigned(b), unsigned(c), [](int64_t x, int64_t y, int64_t z) { \
          int64_t v = x < y ? y : x;                                                                       \
          v = v < z ? z : v;                                                                               \
          return expression_of_v;                                                                          \
        }));                                                                                               \
  }                                                                                                        \
  inline W __viaddmin_##suffix##relu(W a, W b, W c) {                                                      \
    return W(                                                                                              \
        dtk_emulator::each<T>(unsigned(a), unsigned(b), unsigned(c), [](int64_t x, int64_t y, int64_t z) { \
          int64_t v = dtk_emulator::wrap<T>(x + y);                                                        \
          v = v < z ? v : z;                                                                               \
          return expression_of_v;                                                                          \
        }));                                                                                               \
  }                                                                                                        \
  inline W __viaddmax_##suffix##relu(W a, W b, W c) {                                                      \
    return W(                                                                                              \
        dtk_emulator::each<T>(unsigned(a), unsigned(b), unsigned(c), [](int64_t x, int64_t y, int64_t z) { \
          int64_t v = dtk_emulator::wrap<T>(x + y);                                                        \
          v = v < z ? z : v;                                                                               \
          return expression_of_v;                                                                          \
        }));                                                                                               \
  }
DTK_EMULATOR_DPX3(int, int32_t, s32, , v)
DTK_EMULATOR_DPX3(int, int32_t, s32, _relu, (v < 0 ? 0 : v))
DTK_EMULATOR_DPX3(unsigned, uint32_t, u32, , v)
DTK_EMULATOR_DPX3(unsigned, int16_t, s16x2, , v)
DTK_EMULATOR_DPX3(unsigned, int16_t, s16x2, _relu, (v < 0 ? 0 : v))
DTK_EMULATOR_DPX3(unsigned, uint16_t, u16x2, , v)
#undef DTK_EMULATOR_DPX3

inline int __vimin_s32_relu(int a, int b) { return max(min(a, b), 0); }
inline int __vimax_s32_relu(int a, int b) { return max(max(a, b), 0); }
inline unsigned __vimin_s16x2_relu(unsigned a, unsigned b) { return __vmaxs2(__vmins2(a, b), 0); }
inline unsigned __vimax_s16x2_relu(unsigned a, unsigned b) { return __vmaxs2(__vmaxs2(a, b), 0); }

// The b forms also tell whether the first operand was chosen; a tie chooses it.
inline int __vibmin_s32(int a, int b, bool* first) { return (*first = a <= b) ? a : b; }
inline int __vibmax_s32(int a, int b, bool* first) { return (*first = a >= b) ? a : b; }
inline unsigned __vibmin_u32(unsigned a, unsigned b, bool* first) { return (*first = a <= b) ? a : b; }
inline unsigned __vibmax_u32(unsigned a, unsigned b, bool* first) { return (*first = a >= b) ? a : b; }
