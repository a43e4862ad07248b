// The input of a transform as its owner holds it: any dtype, any strides, and the rule that makes it
// a mask. Reading it through this struct is what saves the copies that `.contiguous()`, `.to(uint8)`,
// `x > 0.5` and a one-hot tensor would cost.
#pragma once
#include "config.h"

namespace dtk {

// The order is that of dtkernels/problem.py.
enum DType : int32_t { kUInt8, kInt8, kInt16, kInt32, kInt64, kFloat16, kBFloat16, kFloat32, kFloat64 };

enum Rule : int32_t {
  kNonZero,      // foreground where x != 0 and x is not NaN
  kAbove,        // foreground where x > threshold
  kEqualsClass,  // foreground of class c where x == threshold + c, a whole number: axis 1 of the image counts
                 // classes, its stride is 0
};

// Axes are (batch, class, z, y, x); an axis that the tensor lacks has length 1. Strides count elements.
struct Image {
  const void* data;
  int64_t shape[5];
  int64_t stride[5];
  double threshold;
  int32_t dtype;  // DType
  int32_t rule;   // Rule
};

DTK_INLINE float bits_to_float(uint32_t bits) {
  union {
    uint32_t u;
    float f;
  } pun{bits};
  return pun.f;
}

// IEEE binary16 to binary32, exact. The exponent is rebiased by a multiplication, which also
// normalises subnormals: a half's fields shifted into place read as value * 2^-112.
DTK_INLINE float half_to_float(uint16_t h) {
  const uint32_t magnitude = uint32_t(h & 0x7fffu) << 13;
  const float rebias = bits_to_float(0x77800000u);  // 2^112
  const float value = bits_to_float(magnitude) * rebias;
  const bool special = (h & 0x7c00u) == 0x7c00u;  // infinity or NaN keeps an all-ones exponent
  const float finite_or_special = special ? bits_to_float(magnitude | 0x7f800000u) : value;
  return (h & 0x8000u) ? -finite_or_special : finite_or_special;
}

DTK_INLINE float bfloat16_to_float(uint16_t b) { return bits_to_float(uint32_t(b) << 16); }

// Element `at` of an array of `dtype`.
DTK_INLINE float read_number(const void* data, int32_t dtype, int64_t at) {
  switch (dtype) {
    case kUInt8: return static_cast<const uint8_t*>(data)[at];
    case kInt8: return static_cast<const int8_t*>(data)[at];
    case kInt16: return static_cast<const int16_t*>(data)[at];
    case kInt32: return float(static_cast<const int32_t*>(data)[at]);
    case kInt64: return float(static_cast<const int64_t*>(data)[at]);
    case kFloat16: return half_to_float(static_cast<const uint16_t*>(data)[at]);
    case kBFloat16: return bfloat16_to_float(static_cast<const uint16_t*>(data)[at]);
    case kFloat32: return static_cast<const float*>(data)[at];
    default: return float(static_cast<const double*>(data)[at]);
  }
}

template <typename T>
DTK_INLINE bool is_foreground(T x, int32_t rule, double threshold, int64_t class_index) {
  if (rule == kAbove) return double(x) > threshold;  // false for NaN
  if (rule == kEqualsClass) {
    const int64_t label = class_index + int64_t(threshold);
    return x == T(label) && int64_t(x) == label;
  }
  return x != T(0) && x == x;
}

// Class bit of the element at `offset` (in elements from image.data) for class `class_index`.
DTK_INLINE bool foreground_at(const Image& image, int64_t offset, int64_t class_index) {
  const int32_t rule = image.rule;
  const double t = image.threshold;
  switch (image.dtype) {
    case kUInt8: return is_foreground(static_cast<const uint8_t*>(image.data)[offset], rule, t, class_index);
    case kInt8: return is_foreground(static_cast<const int8_t*>(image.data)[offset], rule, t, class_index);
    case kInt16: return is_foreground(static_cast<const int16_t*>(image.data)[offset], rule, t, class_index);
    case kInt32: return is_foreground(static_cast<const int32_t*>(image.data)[offset], rule, t, class_index);
    case kInt64: return is_foreground(static_cast<const int64_t*>(image.data)[offset], rule, t, class_index);
    case kFloat16:
      return is_foreground(half_to_float(static_cast<const uint16_t*>(image.data)[offset]), rule, t,
                           class_index);
    case kBFloat16:
      return is_foreground(bfloat16_to_float(static_cast<const uint16_t*>(image.data)[offset]), rule, t,
                           class_index);
    case kFloat32: return is_foreground(static_cast<const float*>(image.data)[offset], rule, t, class_index);
    default: return is_foreground(static_cast<const double*>(image.data)[offset], rule, t, class_index);
  }
}

}  // namespace dtk
