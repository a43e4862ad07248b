// Rows of a prediction, weighed by the signed distances of the target's and the prediction's masks: their
// sum, and the gradient of each voxel.
#pragma once
#include "row_passes.h"
#include "simd.h"

namespace dtk::cpu::DTK_ISA {

// Columns that are added up in float lanes before their sum is taken on in double.
constexpr int kAddedAtOnce = 256 * kLanes;

inline double sum_of_lanes(const Vec& v) {
  float lane[kLanes];
  memcpy(lane, &v, sizeof lane);
  double sum = 0;
  for (const float x : lane) sum += double(x);
  return sum;
}

// `count` elements of any dtype as float32.
inline void read_values(const void* data, int32_t dtype, int64_t offset, int count, float* values) {
  const auto read = [&](auto stored, auto decode) {
    const decltype(stored)* x = static_cast<const decltype(stored)*>(data) + offset;
    for (int i = 0; i < count; i++) values[i] = float(decode(x[i]));
  };
  const auto same = [](auto x) { return x; };
  switch (dtype) {
    case kUInt8: return read(uint8_t(), same);
    case kInt8: return read(int8_t(), same);
    case kInt16: return read(int16_t(), same);
    case kInt32: return read(int32_t(), same);
    case kInt64: return read(int64_t(), same);
    case kFloat16: return read(uint16_t(), [](uint16_t x) { return half_to_float(x); });
    case kBFloat16: return read(uint16_t(), [](uint16_t x) { return bfloat16_to_float(x); });
    case kFloat32: return read(float(), same);
    default: return read(double(), same);
  }
}

// What a signed distance weighs: 0 where there is no boundary, or outside of the mask for kInside.
template <int kMeasure>
inline Vec weight_of(const Vec& d) {
  const Vec magnitude = d & broadcast(~kSignBit), zero = broadcast(0u);
  const Vec finite = select(equal(magnitude, broadcast(0x7f800000u)), zero, magnitude);
  return kMeasure == kInside ? finite & copy_sign_bit_everywhere(d) : finite;
}

// Sixteen voxels: the gradient; what they cost is added to `sum`. `g` is read where kSoft.
template <int kMeasure, bool kSoft>
inline Vec weigh_lanes(const Vec& p, const Vec& target, const Vec& prediction, const Vec& g, const Vec& shift,
                       Vec& sum) {
  const Vec inside = copy_sign_bit_everywhere(target);
  if (kMeasure == kBoundary) {
    const Vec infinite = broadcast(0x7f800000u), shifted = add_float(target, inside & shift);
    const Vec z = select(equal(target & broadcast(~kSignBit), infinite), broadcast(0u), shifted);
    sum = add_float(sum, multiply_float(p, z));
    return z;
  }
  Vec weight = weight_of<kMeasure>(target);
  if (kMeasure != kOneSided) weight = add_float(weight, weight_of<kMeasure>(prediction));
  const Vec error = add_float(p, (kSoft ? g : inside & broadcast(1.0f)) ^ broadcast(kSignBit));
  const Vec share = multiply_float(weight, error);
  sum = add_float(sum, multiply_float(error, share));
  return add_float(share, share);
}

template <int kMeasure, bool kSoft>
inline double weigh_rows_as(const WeighTask& task) {
  const bool aligned = ((reinterpret_cast<uintptr_t>(task.gradient) | size_t(task.width) * 4) & 63) == 0;
  const bool stream = task.streaming && aligned;
  const Vec shift = broadcast(task.shift ? 1.0f : 0.0f);
  constexpr bool kBoth = kMeasure == kTwoSided || kMeasure == kInside;
  const auto bits = [](const float* x) { return load(reinterpret_cast<const uint32_t*>(x)); };
  alignas(64) float values[kSoft ? kAddedAtOnce : kLanes];
  double total = 0;
  Vec sum = broadcast(0u);
  int added = 0;
  for (int y = 0; y < task.rows; y++) {
    for (int x0 = 0; x0 < task.width; x0 += kAddedAtOnce) {
      const int count = task.width - x0 < kAddedAtOnce ? task.width - x0 : kAddedAtOnce;
      const int64_t start = int64_t(y) * task.width + x0;
      const float *p = task.p + start, *a = task.of_target + start;
      const float* b = kBoth ? task.of_prediction + start : a;
      float* to = task.gradient + start;
      if (kSoft) read_values(task.target, task.target_dtype, task.target_begin + start, count, values);
      int x = 0;
      for (; x + kLanes <= count; x += kLanes) {
        const Vec v = weigh_lanes<kMeasure, kSoft>(bits(p + x), bits(a + x), bits(b + x),
                                                   bits(values + (kSoft ? x : 0)), shift, sum);
        if (stream) {
          store_streaming(to + x, v);
        } else {
          store(to + x, v);
        }
      }
      if (x < count) {  // zeros cost nothing
        alignas(64) float rest[4][kLanes] = {};
        const size_t bytes = size_t(count - x) * sizeof(float);
        memcpy(rest[0], p + x, bytes);
        memcpy(rest[1], a + x, bytes);
        memcpy(rest[2], b + x, bytes);
        if (kSoft) memcpy(rest[3], values + x, bytes);
        store_some(to + x,
                   weigh_lanes<kMeasure, kSoft>(bits(rest[0]), bits(rest[1]), bits(rest[2]), bits(rest[3]),
                                                shift, sum),
                   count - x);
      }
      added += count;
      if (added >= kAddedAtOnce) {
        total += sum_of_lanes(sum);
        sum = broadcast(0u);
        added = 0;
      }
    }
  }
  return total + sum_of_lanes(sum);
}

inline double weigh_rows(const WeighTask& task) {
  switch (task.measure) {
    case kBoundary: return weigh_rows_as<kBoundary, false>(task);
    case kTwoSided:
      return task.soft ? weigh_rows_as<kTwoSided, true>(task) : weigh_rows_as<kTwoSided, false>(task);
    case kInside: return task.soft ? weigh_rows_as<kInside, true>(task) : weigh_rows_as<kInside, false>(task);
    default: return task.soft ? weigh_rows_as<kOneSided, true>(task) : weigh_rows_as<kOneSided, false>(task);
  }
}

}  // namespace dtk::cpu::DTK_ISA
