// The mathematics of a distance map, as dtkernels/formula.py hands it over: numbers that depend on options
// alone become, with what is known of an image on the device, one line per side.
#pragma once
#include "config.h"

namespace dtk {

// How a pass tells foreground from background; the order is that of dtkernels/problem.py.
enum Inside : int32_t {
  kNegative,  // the map is signed
  kPositive,  // the map is 0 in the background
  kByMask,    // the map is nowhere negative
};

// (slope d + offset . v) / (divisor . v) + add, with v = (1, M, s, D): M is the largest finite distance of
// the side, s the spacing, D the diagonal of the image. Where divisor . v is not positive: degenerate.
struct FormulaSide {
  float slope, offset[4], divisor[4], add, degenerate;
};

// The order of the numbers is that of Formula.floats().
struct Formula {
  FormulaSide inside, outside;
  float low, high;          // of values that come from a distance
  float limit;              // of the absolute values of empty and full
  float edge;               // on the inner boundary
  float empty[2], full[2];  // where no voxel of the other side exists: a constant and a multiple of D
  float rate;               // not 0: slope exp(rate d^2) + add
  float shared;             // not 0: both sides are divided by the larger divisor
};

// One side of one image, or of one component of it: (slope d + offset) / divisor + add.
struct FormulaLine {
  float slope, offset, divisor, add;
};

// What an image adds to a formula.
struct ImageScale {
  float inside_top, outside_top, spacing, diagonal;
};

struct ImageFormula {
  FormulaLine inside, outside;
  float empty, full;
};

DTK_INLINE float formula_dot(const float (&a)[4], float top, const ImageScale& image) {
  return a[0] + a[1] * top + a[2] * image.spacing + a[3] * image.diagonal;
}

// A difference that rounding leaves of equal numbers is 0.
DTK_INLINE FormulaLine formula_line(const FormulaSide& side, float divisor, float top,
                                    const ImageScale& image) {
  const float slack = 1e-6f * top * (side.divisor[1] < 0 ? -side.divisor[1] : side.divisor[1]);
  if (side.slope != 0 && divisor <= slack) return {0.0f, 0.0f, 1.0f, side.degenerate};
  return {side.slope, formula_dot(side.offset, top, image), divisor, side.add};
}

DTK_INLINE FormulaLine component_line(const Formula& f, float top, const ImageScale& image) {
  return formula_line(f.inside, formula_dot(f.inside.divisor, top, image), top, image);
}

DTK_INLINE float missing_value(const float (&a)[2], float limit, float diagonal) {
  const float value = a[1] != 0 ? a[0] + a[1] * diagonal : a[0];
  return value > limit ? limit : value < -limit ? -limit : value;
}

DTK_INLINE ImageFormula image_formula(const Formula& f, const ImageScale& image) {
  float inside = formula_dot(f.inside.divisor, image.inside_top, image);
  float outside = formula_dot(f.outside.divisor, image.outside_top, image);
  if (f.shared != 0) inside = outside = inside > outside ? inside : outside;
  return {formula_line(f.inside, inside, image.inside_top, image),
          formula_line(f.outside, outside, image.outside_top, image),
          missing_value(f.empty, f.limit, image.diagonal), missing_value(f.full, f.limit, image.diagonal)};
}

}  // namespace dtk
