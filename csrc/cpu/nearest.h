// The feature transform on CPUs: distance to the nearest background voxel, and which voxel that is.
#pragma once
#include "../dtk/image.h"

namespace dtk::cpu {

struct Nearest {
  Image image;
  const double* spacing;  // (z, y, x) per row; null means unit spacing
  int64_t spacing_rows;   // 1: one row for all images; image.shape[0]: one row per sample
  int32_t spatial_dims;   // 1, 2 or 3: how many trailing axes exist, for spacing
  float* distance;        // contiguous, image.shape: bit for bit what transform() gives
  int64_t* index;  // contiguous, image.shape: position within (z, y, x), -1 where there is no background
  int threads;
};

// Throws std::bad_alloc when scratch cannot be had.
void nearest(const Nearest& n);

}  // namespace dtk::cpu
