// The transform on CPUs: one call does every axis of every image of a batch.
#pragma once
#include "../dtk/image.h"

namespace dtk::cpu {

struct Transform {
  Image image;
  const double* spacing;  // (z, y, x) per row; null means unit spacing
  int64_t spacing_rows;   // 1: one row for all images; image.shape[0]: one row per sample
  bool is_signed;         // d_out - d_in instead of d_in
  bool squared;           // sign(d) d^2 instead of d
  bool closed;            // the image is surrounded by background
  bool to_faces;   // signed distances lose half a spacing: their zero level is at the faces between voxels
  float* out;      // contiguous, image.shape
  float* extrema;  // null, or two per image: taken by maximum into it, the largest finite squared distance
                   // of its foreground voxels and, if signed, of its background voxels
  int32_t spatial_dims;  // 1, 2 or 3: how many trailing axes exist, for spacing and for the closed border
  int threads;
};

// Throws std::bad_alloc when scratch cannot be had.
void transform(const Transform& t);

// "avx512", "avx2", "neon" or "portable": what transform() runs on this machine.
const char* instruction_set();

}  // namespace dtk::cpu
