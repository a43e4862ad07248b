// A prediction weighed by distances to boundaries and summed over space, and the gradient, on CPUs: the
// distances are made slice by slice, used while they are in cache, and never reach memory.
#pragma once
#include "../dtk/image.h"
#include "../dtk/measure.h"

namespace dtk::cpu {

struct Weigh {
  Image prediction;       // float32, the (z, y, x) of an image contiguous; its mask is what its rule says
  Image target;           // of the same shape; its (z, y, x) are contiguous where `soft`
  const double* spacing;  // (z, y, x) per row; null means unit spacing
  int64_t spacing_rows;
  int32_t spatial_dims;
  int32_t measure;  // Measure
  bool squared;     // distances are squared
  bool shift;       // kBoundary: distances inside are 1 shorter
  bool soft;        // g is the target's element itself, else its mask
  float* sums;      // one per image
  float* gradient;  // contiguous, of the prediction's shape
  int threads;
};

// Throws std::bad_alloc when scratch cannot be had.
void weigh(const Weigh& w);

}  // namespace dtk::cpu
