// The head of every parameter struct: all pointers of a launch, together, so that the caller can keep the
// rest of a launch plan as constant bytes (dtkernels/plans) and put only these six words in front.
#pragma once
#include "image.h"

namespace dtk {

struct Operands {
  const void* source;     // what an earlier kernel left
  const double* spacing;  // rows (z, y, x) on the device, or null
  void* target;
  void* second;  // of two results
  void* scratch;
  Image image;  // its first member is its pointer
};

// The rule of `image` with its dtype known to the compiler: the switch in foreground_at() folds away, so
// that a loop over elements keeps its loads in flight.
template <int32_t kDType>
__device__ inline bool foreground_as(const Image& image, int64_t offset, int64_t class_index) {
  Image typed;
  typed.data = image.data;
  typed.threshold = image.threshold;
  typed.dtype = kDType;
  typed.rule = image.rule;
  return foreground_at(typed, offset, class_index);
}

}  // namespace dtk
