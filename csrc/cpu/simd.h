// Sixteen 32-bit lanes, whatever the machine: one AVX-512 register, two AVX2 registers, or four
// 128-bit registers (NEON, or SSE2 as the portable baseline of x86).
//
// A lane holds the bits of an unsigned integer or of a float; the passes decide which. Bits of
// non-negative floats order like unsigned integers, so minimum and comparison are integer operations
// for both, and on Zen 4 and Zen 5 they use more ports than their floating-point twins.
//
// This header is compiled once per instruction set. Everything lives in the namespace DTK_ISA, so the
// linker can never pick an AVX-512 copy of a function for a machine that lacks it; for the same reason
// no template of the standard library is used in the passes.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace dtk::cpu::DTK_ISA {

constexpr int kLanes = 16;
constexpr uint32_t kSignBit = 0x80000000u;

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
constexpr int kPartLanes = 16;
#elif defined(__AVX2__)
constexpr int kPartLanes = 8;
#else
constexpr int kPartLanes = 4;
#endif
constexpr int kParts = kLanes / kPartLanes;

// GNU vectors: +, ^, &, | and comparisons come from the compiler, intrinsics only fill the gaps.
typedef uint32_t Part __attribute__((vector_size(4 * kPartLanes)));
typedef int32_t SignedPart __attribute__((vector_size(4 * kPartLanes)));
typedef float FloatPart __attribute__((vector_size(4 * kPartLanes)));

struct alignas(64) Vec {
  Part part[kParts];
};

template <class F>
inline Vec each(F f, const Vec& a) {
  Vec r;
  for (int i = 0; i < kParts; i++) r.part[i] = f(a.part[i]);
  return r;
}
template <class F>
inline Vec each(F f, const Vec& a, const Vec& b) {
  Vec r;
  for (int i = 0; i < kParts; i++) r.part[i] = f(a.part[i], b.part[i]);
  return r;
}

// Part by part: GCC copies a whole Vec in pieces of 16 bytes.
typedef uint32_t UnalignedPart __attribute__((vector_size(4 * kPartLanes), aligned(4), may_alias));
inline Vec load(const uint32_t* p) {
  Vec r;
  for (int i = 0; i < kParts; i++) r.part[i] = *reinterpret_cast<const UnalignedPart*>(p + i * kPartLanes);
  return r;
}
inline void store(uint32_t* p, const Vec& v) {
  for (int i = 0; i < kParts; i++) *reinterpret_cast<UnalignedPart*>(p + i * kPartLanes) = v.part[i];
}
inline void store(float* p, const Vec& v) { store(reinterpret_cast<uint32_t*>(p), v); }

inline Vec broadcast(uint32_t x) {
  Vec r;
  for (int i = 0; i < kParts; i++) r.part[i] = Part{} + x;
  return r;
}
inline Vec broadcast(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return broadcast(bits);
}

inline Vec operator+(const Vec& a, const Vec& b) {
  return each([](Part x, Part y) { return x + y; }, a, b);
}
inline Vec operator*(const Vec& a, const Vec& b) {
  return each([](Part x, Part y) { return x * y; }, a, b);
}
inline Vec operator^(const Vec& a, const Vec& b) {
  return each([](Part x, Part y) { return x ^ y; }, a, b);
}
inline Vec operator&(const Vec& a, const Vec& b) {
  return each([](Part x, Part y) { return x & y; }, a, b);
}
inline Vec operator|(const Vec& a, const Vec& b) {
  return each([](Part x, Part y) { return x | y; }, a, b);
}
inline Vec subtract(const Vec& a, const Vec& b) {
  return each([](Part x, Part y) { return x - y; }, a, b);
}
inline Vec shift_left(const Vec& a, int bits) {
  return each([bits](Part x) { return x << bits; }, a);
}
inline Vec shift_right(const Vec& a, int bits) {
  return each([bits](Part x) { return x >> bits; }, a);
}
inline Vec copy_sign_bit_everywhere(const Vec& a) {
  return each([](Part x) { return (Part)((SignedPart)x >> 31); }, a);
}

inline Vec min_unsigned(const Vec& a, const Vec& b) {
#if defined(__AVX2__)
  return each(
      [](Part x, Part y) {
#if defined(__AVX512F__)
        return (Part)_mm512_min_epu32((__m512i)x, (__m512i)y);
#else
        return (Part)_mm256_min_epu32((__m256i)x, (__m256i)y);
#endif
      },
      a, b);
#else
  return each(
      [](Part x, Part y) {
        Part less = (Part)(x < y);
        return (x & less) | (y & ~less);
      },
      a, b);
#endif
}

inline Vec min_signed(const Vec& a, const Vec& b) {
#if defined(__AVX2__)
  return each(
      [](Part x, Part y) {
#if defined(__AVX512F__)
        return (Part)_mm512_min_epi32((__m512i)x, (__m512i)y);
#else
        return (Part)_mm256_min_epi32((__m256i)x, (__m256i)y);
#endif
      },
      a, b);
#else
  const auto pick = [](Part x, Part y) {
    const Part less = (Part)((SignedPart)x < (SignedPart)y);
    return (x & less) | (y & ~less);
  };
  return each(pick, a, b);
#endif
}

inline Vec max_signed(const Vec& a, const Vec& b) {
#if defined(__AVX2__)
  return each(
      [](Part x, Part y) {
#if defined(__AVX512F__)
        return (Part)_mm512_max_epi32((__m512i)x, (__m512i)y);
#else
        return (Part)_mm256_max_epi32((__m256i)x, (__m256i)y);
#endif
      },
      a, b);
#else
  const auto pick = [](Part x, Part y) {
    const Part more = (Part)((SignedPart)x > (SignedPart)y);
    return (x & more) | (y & ~more);
  };
  return each(pick, a, b);
#endif
}

// max(a, 0) of signed integers: what has its sign bit set becomes zero.
inline Vec clamp_negative(const Vec& a) {
#if defined(__AVX512F__)
  return each([](Part x) { return (Part)_mm512_max_epi32((__m512i)x, _mm512_setzero_si512()); }, a);
#elif defined(__AVX2__)
  return each([](Part x) { return (Part)_mm256_max_epi32((__m256i)x, _mm256_setzero_si256()); }, a);
#else
  return each([](Part x) { return x & ~(Part)((SignedPart)x >> 31); }, a);
#endif
}

#if defined(__AVX512F__)
struct Mask {
  __mmask16 bits;
};
inline Mask less(const Vec& a, const Vec& b) {
  return {_mm512_cmplt_epu32_mask((__m512i)a.part[0], (__m512i)b.part[0])};
}
inline Mask equal(const Vec& a, const Vec& b) {
  return {_mm512_cmpeq_epi32_mask((__m512i)a.part[0], (__m512i)b.part[0])};
}
inline Vec select(Mask m, const Vec& yes, const Vec& no) {
  return {{(Part)_mm512_mask_mov_epi32((__m512i)no.part[0], m.bits, (__m512i)yes.part[0])}};
}
inline bool any(Mask m) { return m.bits != 0; }
// Lane i where bit i is set.
inline Mask lanes_of(uint32_t bits) { return {__mmask16(bits)}; }
inline Mask negative(const Vec& a) { return {_mm512_movepi32_mask((__m512i)a.part[0])}; }
inline uint32_t sign_bits(const Vec& a) { return negative(a).bits; }
#else
struct Mask {
  Vec lanes;  // all ones where true
};
inline Mask less(const Vec& a, const Vec& b) {
#if defined(__AVX2__)
  // AVX2 compares signed integers only; flipping both sign bits makes that an unsigned comparison.
  const Part flip = Part{} + kSignBit;
  return {
      each([flip](Part x, Part y) { return (Part)((SignedPart)(x ^ flip) < (SignedPart)(y ^ flip)); }, a, b)};
#else
  return {each([](Part x, Part y) { return (Part)(x < y); }, a, b)};
#endif
}
inline Mask equal(const Vec& a, const Vec& b) {
  return {each([](Part x, Part y) { return (Part)(x == y); }, a, b)};
}
inline Vec select(const Mask& m, const Vec& yes, const Vec& no) {
  Vec r;
  for (int i = 0; i < kParts; i++) {
    const Part chosen = m.lanes.part[i];
#if defined(__AVX2__)
    r.part[i] = (Part)_mm256_blendv_epi8((__m256i)no.part[i], (__m256i)yes.part[i], (__m256i)chosen);
#else
    r.part[i] = (yes.part[i] & chosen) | (no.part[i] & ~chosen);
#endif
  }
  return r;
}
inline Mask negative(const Vec& a) { return {copy_sign_bit_everywhere(a)}; }
// Lane i where bit i is set.
inline Mask lanes_of(uint32_t bits) {
  Vec own;
  for (int i = 0; i < kParts; i++) {
    for (int lane = 0; lane < kPartLanes; lane++) own.part[i][lane] = 1u << (i * kPartLanes + lane);
  }
  return equal(broadcast(bits) & own, own);
}
inline uint32_t sign_bits(const Vec& a) {
#if defined(__AVX2__)
  return uint32_t(_mm256_movemask_ps((__m256)a.part[0])) | uint32_t(_mm256_movemask_ps((__m256)a.part[1]))
                                                               << 8;
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes; lane++)
    bits |= (a.part[lane / kPartLanes][lane % kPartLanes] >> 31) << lane;
  return bits;
#endif
}
inline bool any(const Mask& m) {
#if defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)(m.lanes.part[0] | m.lanes.part[1])) != 0;
#else
  const Part folded = (m.lanes.part[0] | m.lanes.part[1]) | (m.lanes.part[2] | m.lanes.part[3]);
  uint64_t words[2];
  memcpy(words, &folded, 16);
  return (words[0] | words[1]) != 0;
#endif
}
#endif

// *to = max(*to, value) for floats that are not negative, whose bits order like integers; among threads.
inline void raise_float(float* to, float value) {
  uint32_t mine;
  memcpy(&mine, &value, 4);
  uint32_t* bits = reinterpret_cast<uint32_t*>(to);
  uint32_t now = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (mine > now &&
         !__atomic_compare_exchange_n(bits, &now, mine, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

inline uint32_t max_of_lanes(const Vec& a) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epu32((__m512i)a.part[0]);
#else
  uint32_t best = 0;
  for (int lane = 0; lane < kLanes; lane++) {
    const uint32_t x = a.part[lane / kPartLanes][lane % kPartLanes];
    best = x > best ? x : best;
  }
  return best;
#endif
}
inline uint32_t min_of_lanes(const Vec& a) { return ~max_of_lanes(a ^ broadcast(~0u)); }

// All ones in the first `count` lanes, zeros in the others.
inline Vec first_lanes(int count) {
  Vec r;
  for (int lane = 0; lane < kLanes; lane++)
    r.part[lane / kPartLanes][lane % kPartLanes] = lane < count ? ~0u : 0u;
  return r;
}

// Sixteen small integers, widened.
inline Vec widen(const uint8_t* p) {
#if defined(__AVX512F__)
  return {{(Part)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))}};
#else
  Vec r;
  for (int i = 0; i < kParts; i++) {
#if defined(__AVX2__)
    r.part[i] = (Part)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8 * i)));
#else
    for (int lane = 0; lane < kPartLanes; lane++) r.part[i][lane] = p[i * kPartLanes + lane];
#endif
  }
  return r;
#endif
}
inline Vec widen(const uint16_t* p) {
#if defined(__AVX512F__)
  return {{(Part)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p))}};
#else
  Vec r;
  for (int i = 0; i < kParts; i++) {
#if defined(__AVX2__)
    r.part[i] = (Part)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8 * i)));
#else
    for (int lane = 0; lane < kPartLanes; lane++) r.part[i][lane] = p[i * kPartLanes + lane];
#endif
  }
  return r;
#endif
}

// Floating point on the bits of the lanes.
inline Vec add_float(const Vec& a, const Vec& b) {
  return each([](Part x, Part y) { return (Part)((FloatPart)x + (FloatPart)y); }, a, b);
}
inline Vec multiply_float(const Vec& a, const Vec& b) {
  return each([](Part x, Part y) { return (Part)((FloatPart)x * (FloatPart)y); }, a, b);
}
inline Vec divide_float(const Vec& a, const Vec& b) {
  return each([](Part x, Part y) { return (Part)((FloatPart)x / (FloatPart)y); }, a, b);
}
// The second where a comparison with NaN is asked for.
inline Vec min_float(const Vec& a, const Vec& b) {
  return each(
      [](Part x, Part y) {
        const Part less = (Part)((FloatPart)x < (FloatPart)y);
        return (x & less) | (y & ~less);
      },
      a, b);
}
inline Vec max_float(const Vec& a, const Vec& b) {
  return each(
      [](Part x, Part y) {
        const Part more = (Part)((FloatPart)x > (FloatPart)y);
        return (x & more) | (y & ~more);
      },
      a, b);
}
// Towards zero.
inline Vec to_int(const Vec& a) {
  return each([](Part x) { return (Part) __builtin_convertvector((FloatPart)x, SignedPart); }, a);
}
// Of integers below 2^31.
inline Vec to_float(const Vec& a) {
  return each([](Part x) { return (Part) __builtin_convertvector((SignedPart)x, FloatPart); }, a);
}
inline Vec sqrt_float(const Vec& a) {
#if defined(__AVX512F__)
  return {{(Part)_mm512_sqrt_ps((__m512)a.part[0])}};
#elif defined(__AVX2__)
  return each([](Part x) { return (Part)_mm256_sqrt_ps((__m256)x); }, a);
#else
  Vec r;
  for (int i = 0; i < kParts; i++) {
    FloatPart x = (FloatPart)a.part[i];
    for (int lane = 0; lane < kPartLanes; lane++) x[lane] = __builtin_sqrtf(x[lane]);
    r.part[i] = (Part)x;
  }
  return r;
#endif
}

// The first `count` lanes.
inline void store_some(float* p, const Vec& v, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_epi32(p, __mmask16((1u << count) - 1), (__m512i)v.part[0]);
#else
  memcpy(p, &v, 4 * size_t(count));
#endif
}

// A store that leaves the caches alone; `p` is a multiple of 64 bytes. Ordered by stream_fence().
inline void store_streaming(float* p, const Vec& v) {
#if defined(__AVX512F__)
  _mm512_stream_si512((__m512i*)p, (__m512i)v.part[0]);
#elif defined(__AVX2__)
  for (int i = 0; i < kParts; i++) _mm256_stream_si256((__m256i*)(p + 8 * i), (__m256i)v.part[i]);
#else
  store(p, v);
#endif
}
inline void stream_fence() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Lane l of the result is lane I of the pair (a, b), counted through: index[l] < kPartLanes is from a.
template <int... I>
inline Part permute_pair(Part a, Part b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, Part{I...});
#endif
}

}  // namespace dtk::cpu::DTK_ISA
