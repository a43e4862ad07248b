// A formula (formula.h) at a voxel: for the end of a transform, where a voxel's own distance is all that it
// takes (epilogue.cuh), and for the pass over maps that takes more (remap.cuh).
#pragma once
#include "formula.h"
#include "image.h"

namespace dtk {

// Lengths of an image: the spacing along its last axis, its diagonal, and the widest step between neighbours,
// in which rounding leaves no neighbour out. The plan knows them, unless spacing lies on the device.
struct ImageSize {
  float spacing, diagonal, widest;
  int32_t sides[3];  // (z, y, x), 0 where there is no such axis
};

// A formula of a voxel's own distance alone, at the end of a transform.
struct Mapping {
  Formula formula;
  ImageSize size;
  int32_t inner_zero;  // foreground up to one step from the background gets `edge`: for equal spacing
  int32_t used;
};

// `row`: of spacing (z, y, x), or null.
__device__ inline ImageSize image_size(const ImageSize& known, const double* row) {
  if (row == nullptr) return known;
  double squares = 0, most = 0;
  for (int axis = 0; axis < 3; ++axis) {
    if (known.sides[axis] == 0) continue;
    const double extent = known.sides[axis] * row[axis];
    squares += extent * extent;
    most = row[axis] > most ? row[axis] : most;
  }
  return {float(row[2]), __fsqrt_rn(float(squares)), float(most) * 1.00001f, {}};
}

// exp(x) for x <= 0: 2^n exp(r), n the nearest integer to x / ln 2, and |r| at most ln 2 / 2, where the first
// term that the series leaves out is below 2^-27. ln 2 is taken in two parts, the first of so few bits that
// n times it is exact.
__device__ inline float exp_negative(float x) {
  x = x < -87.0f ? -87.0f : x;  // 2^-125.5: still a normal number
  const int n = int(x * 1.44269504f - 0.5f);
  const float r = (x - float(n) * 0.693359375f) + float(n) * 2.12194440e-4f;
  float e = 1.0f / 5040.0f;
  e = e * r + 1.0f / 720.0f;
  e = e * r + 1.0f / 120.0f;
  e = e * r + 1.0f / 24.0f;
  e = e * r + 1.0f / 6.0f;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  return e * bits_to_float(uint32_t(n + 127) << 23);
}

// What the formula gives for a finite distance on the side that `line` is of.
__device__ inline float formula_value(const Formula& f, const FormulaLine& line, float d) {
  float value;
  if (f.rate != 0) {
    value = line.slope * exp_negative(f.rate * (d * d)) + line.add;
  } else {
    value = line.slope * d + line.offset;
    if (line.divisor != 1.0f) value = value / line.divisor;
    value = value + line.add;
  }
  return fminf(fmaxf(value, f.low), f.high);
}

}  // namespace dtk
