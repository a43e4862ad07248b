// Turns a run of elements of any dtype and stride into bytes, non-zero where foreground. Each pair of dtype
// and rule has its own loop, which the compiler vectorises when the elements are adjacent.
#pragma once
#include "../dtk/image.h"
#include "simd.h"

namespace dtk::cpu::DTK_ISA {

// The largest float that is not above t. For a float x, x > t exactly when x > that: the comparison
// needs no double.
inline float float_not_above(double t) {
  float f = float(t);
  if (!(double(f) > t)) return f;
  if (f == __builtin_inff()) return __FLT_MAX__;  // t lies between the largest float and infinity
  int32_t bits;
  memcpy(&bits, &f, 4);
  bits = f > 0 ? bits - 1 : f < 0 ? bits + 1 : int32_t(0x80000001u);
  memcpy(&f, &bits, 4);
  return f;
}

template <class Stored, class Decode, class Test>
inline void test_run(const Stored* x, int64_t stride, int64_t count, Decode decode, Test test,
                     uint8_t* __restrict mask) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; i++) mask[i] = test(decode(x[i]));
  } else {
    for (int64_t i = 0; i < count; i++) mask[i] = test(decode(x[i * stride]));
  }
}

// Value is what the elements of type Stored are compared as; Ordered is the type in which "above" is exact.
template <class Value, class Ordered, class Stored, class Decode>
inline void read_run_as(const Image& image, const Stored* x, int64_t stride, int64_t count,
                        int64_t class_index, Decode decode, uint8_t* mask) {
  if (image.rule == kNonZero) {
    test_run(x, stride, count, decode, [](Value v) { return uint8_t((v != Value(0)) & (v == v)); }, mask);
  } else if (image.rule == kAbove) {
    const Ordered t =
        sizeof(Ordered) == 4 ? Ordered(float_not_above(image.threshold)) : Ordered(image.threshold);
    test_run(x, stride, count, decode, [t](Value v) { return uint8_t(Ordered(v) > t); }, mask);
  } else {
    const int64_t label = class_index + int64_t(image.threshold);
    const Value wanted = Value(label);
    if (int64_t(wanted) != label) {
      memset(mask, 0, count);  // the dtype cannot even hold this class
    } else {
      test_run(x, stride, count, decode, [wanted](Value v) { return uint8_t(v == wanted); }, mask);
    }
  }
}

// `count` elements from `offset` on (in elements from image.data), `stride` apart.
inline void read_run(const Image& image, int64_t offset, int64_t stride, int64_t count, int64_t class_index,
                     uint8_t* mask) {
  const auto read = [&](auto stored, auto ordered) {
    using Stored = decltype(stored);
    read_run_as<Stored, decltype(ordered)>(
        image, static_cast<const Stored*>(image.data) + offset, stride, count, class_index,
        [](Stored x) { return x; }, mask);
  };
  const auto read_encoded = [&](auto decode) {
    read_run_as<float, float>(image, static_cast<const uint16_t*>(image.data) + offset, stride, count,
                              class_index, decode, mask);
  };
  switch (image.dtype) {
    case kUInt8: return read(uint8_t(), float());
    case kInt8: return read(int8_t(), float());
    case kInt16: return read(int16_t(), float());
    case kInt32: return read(int32_t(), double());
    case kInt64: return read(int64_t(), double());
    case kFloat16: return read_encoded([](uint16_t x) { return half_to_float(x); });
    case kBFloat16: return read_encoded([](uint16_t x) { return bfloat16_to_float(x); });
    case kFloat32: return read(float(), float());
    default: return read(double(), double());
  }
}

}  // namespace dtk::cpu::DTK_ISA
