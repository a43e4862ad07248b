// What is summed over a prediction p, weighed by distances; the order is that of dtkernels/problem.py.
#pragma once
#include "config.h"

namespace dtk {

enum Measure : int32_t {
  kBoundary,  // p times the signed distance to the target's boundary
  kTwoSided,  // (p - g)^2 times the distances to the boundaries of both masks
  kInside,    // the same with distances that are 0 outside of their mask
  kOneSided,  // the same with the distance to the target's boundary alone
};

}  // namespace dtk
