// The feature transform on CPUs: distance to the nearest background voxel, and which voxel that is; and what
// a map needs of it, the spacing across the face that the way to the nearest voxel of the other side crosses.
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

// Signed distances move by half a spacing towards 0: of the axis along which the nearest voxel of the other
// side is the most voxels away, of several such axes the narrowest.
struct Faces {
  float* maps;  // contiguous, image.shape: signed distances, negative inside
  Image image;  // the masks that the maps are of
  int32_t spatial_dims;
  const double* spacing;  // as above
  int64_t spacing_rows;
  bool closed;  // beyond the image is background
  int threads;
};

// These throw std::bad_alloc when scratch cannot be had.
void nearest(const Nearest& n);
void faces(const Faces& f);

}  // namespace dtk::cpu
