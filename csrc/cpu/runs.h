// Rows of a mask as bits, and bits as runs of foreground: what the row-wise operators (nearest, label) read.
#pragma once
#include "read_mask.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace dtk::cpu::DTK_ISA {

inline int64_t words_for(int64_t count) { return (count + 63) / 64; }

// Bit i is set where byte i is not zero.
inline uint64_t pack64(const uint8_t* bytes) {
#if defined(__AVX512BW__)
  const __m512i v = _mm512_loadu_si512(bytes);
  return _mm512_test_epi8_mask(v, v);
#elif defined(__AVX2__)
  const auto zeros = [bytes](int at) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + at));
    return uint64_t(uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_setzero_si256())))) << at;
  };
  return ~(zeros(0) | zeros(32));
#elif defined(__SSE2__)
  const auto zeros = [bytes](int at) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + at));
    return uint64_t(uint32_t(_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_setzero_si128())))) << at;
  };
  return ~(zeros(0) | zeros(16) | zeros(32) | zeros(48));
#else
  uint64_t bits = 0;
  for (int i = 0; i < 8; i++) {
    uint64_t x = 0;  // byte j of the word in bits 8 j, whatever the byte order
    for (int j = 0; j < 8; j++) x |= uint64_t(bytes[8 * i + j]) << (8 * j);
    constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7fu;
    const uint64_t tops = (((x & kLow) + kLow) | x) & ~kLow;  // the top bit of every byte that is not zero
    bits |= ((tops >> 7) * 0x0102040810204080u >> 56) << (8 * i);  // gathered into the top byte
  }
  return bits;
#endif
}

// Bits past `count` in the last word are zero.
inline void pack_bits(const uint8_t* bytes, int64_t count, uint64_t* words) {
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) words[i / 64] = pack64(bytes + i);
  if (i < count) {
    uint8_t rest[64] = {};
    memcpy(rest, bytes + i, size_t(count - i));
    words[i / 64] = pack64(rest);
  }
}

// Reads a row of an image and packs it. `buffer` holds `count` bytes, and is used where the elements are not
// the bytes themselves.
inline void pack_row(const Image& image, int64_t offset, int64_t stride, int64_t count, uint8_t* buffer,
                     uint64_t* words, int64_t class_index = 0) {
  const uint8_t* bytes = buffer;
  if (image.dtype == kUInt8 && image.rule == kNonZero && (stride == 1 || count == 1)) {
    bytes = static_cast<const uint8_t*>(image.data) + offset;
  } else {
    read_run(image, offset, stride, count, class_index, buffer);
  }
  pack_bits(bytes, count, words);
}

// How many runs of ones begin in `count` bits.
inline int64_t count_runs(const uint64_t* words, int64_t count) {
  int64_t runs = 0;
  uint64_t carry = 0;
  for (int64_t i = 0; i < words_for(count); i++) {
    runs += __builtin_popcountll(words[i] & ~(words[i] << 1 | carry));
    carry = words[i] >> 63;
  }
  return runs;
}

// Calls f(begin, end) for every run of ones, in order, half-open.
template <class F>
inline void for_each_run(const uint64_t* words, int count, const F& f) {
  uint64_t carry = 0;
  int begin = 0;
  bool inside = false;
  for (int i = 0; i * 64 < count; i++) {
    uint64_t changes = words[i] ^ (words[i] << 1 | carry);
    carry = words[i] >> 63;
    while (changes) {
      const int at = i * 64 + __builtin_ctzll(changes);
      changes &= changes - 1;
      if (inside) {
        f(begin, at);
      } else {
        begin = at;
      }
      inside = !inside;
    }
  }
  if (inside) f(begin, count);
}

}  // namespace dtk::cpu::DTK_ISA
