// Distance maps by a formula, in place, on CPUs: one pass over a signed or unsigned distance.
#pragma once
#include "../dtk/formula.h"
#include "../dtk/image.h"

namespace dtk::cpu {

struct Remap {
  float* maps;  // contiguous, image.shape
  Image image;  // the masks that the maps are of
  int32_t spatial_dims;
  const double* spacing;  // (z, y, x) per row; null means unit spacing
  int64_t spacing_rows;
  int32_t inside;   // Inside
  bool inner_zero;  // foreground voxels with a face neighbour in the background get formula.edge
  bool closed;      // beyond the image is background
  Formula formula;
  const float* extrema;   // two per image, or null
  const int32_t* labels;  // components of the foreground, or null
  const int32_t* counts;  // how many, per image
  int threads;
};

// The contour of a mask: foreground voxels with a neighbour in the background.
struct Contour {
  Image image;
  int32_t spatial_dims;
  int connectivity;  // neighbours differ by at most 1 in each of at most this many coordinates
  bool closed;       // beyond the image is background
  uint8_t* out;      // contiguous, image.shape: 0 on the contour, 1 elsewhere
  int threads;
};

// These throw std::bad_alloc when scratch cannot be had.
void remap(const Remap& r);
void contour(const Contour& c);

}  // namespace dtk::cpu
