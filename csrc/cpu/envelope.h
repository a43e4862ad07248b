// Lower envelopes of parabolas on CPUs: min over q of f(q) + sum over axes of s^2 (p - q)^2.
#pragma once
#include <cstdint>

namespace dtk::cpu {

struct Envelope {
  const void* f;          // float, or double where `wide`; axes (batch, class, z, y, x)
  bool wide;              // values are double and everything is computed in double
  int64_t shape[5];       // an axis that the tensor lacks has length 1
  int64_t stride[5];      // in elements
  const double* spacing;  // (z, y, x) per row; null means unit spacing
  int64_t spacing_rows;   // 1: one row for all images; shape[0]: one row per sample
  void* values;           // contiguous, like f
  int64_t* index;         // contiguous, or null where nobody asks: position of the lowest q within (z, y, x)
  int threads;
};

// Throws std::bad_alloc when scratch cannot be had.
void envelope(const Envelope& e);

// sums[b][q] = sum of grad[b][p] over the p with index[b][p] == q, in the order of p whatever the threads.
struct Scatter {
  const void* grad;  // (images, voxels), float or double
  bool wide;
  const int64_t* index;  // (images, voxels); negative: nowhere
  int64_t images, voxels;
  void* sums;  // (images, voxels)
  int threads;
};
void scatter(const Scatter& s);

}  // namespace dtk::cpu
