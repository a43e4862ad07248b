// Element types of results: how a distance becomes 16 or 8 bits. Rounding is to nearest, ties to even.
// Whether every distance of an image fits its type is for the caller to ask (dtkernels/arguments.py); only
// the infinity of an image without any site must have a form in each: itself, and 255 in a byte.
#pragma once
#include "image.h"

namespace dtk {

DTK_INLINE uint32_t float_to_bits(float value) {
  union {
    float f;
    uint32_t u;
  } pun{value};
  return pun.u;
}

// binary32 to binary16 where |value| < 65520 or infinite. Normal halves: the exponent is rebiased in the
// bits, and half a unit less one, plus the lowest bit kept, carries into them where nearest-even rounds up.
// Smaller values: adding 1/2, whose unit in the last place is that of subnormal halves, rounds them in the
// adder.
DTK_INLINE uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) return uint16_t(sign | 0x7c00u);
  if (magnitude < 0x38800000u)  // 2^-14
    return uint16_t(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u));
  return uint16_t(sign | ((magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

// binary32 to bfloat16; finite values beyond its largest become infinite, which no distance is.
DTK_INLINE uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// 0 .. 254 to a byte, infinity to 255: adding 1.5 * 2^23 leaves the rounded integer in the low bits.
DTK_INLINE uint8_t float_to_byte(float value) {
  return value >= 255.0f ? uint8_t(255) : uint8_t(float_to_bits(value + 12582912.0f));
}

// Element `at` of an output of `dtype`: float32, float16, bfloat16 or uint8.
DTK_INLINE void write_output(void* out, int32_t dtype, int64_t at, float value) {
  switch (dtype) {
    case kFloat32: static_cast<float*>(out)[at] = value; break;
    case kFloat16: static_cast<uint16_t*>(out)[at] = float_to_half(value); break;
    case kBFloat16: static_cast<uint16_t*>(out)[at] = float_to_bfloat16(value); break;
    default: static_cast<uint8_t*>(out)[at] = float_to_byte(value); break;
  }
}

}  // namespace dtk
