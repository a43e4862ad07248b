// Connected components on CPUs.
#pragma once
#include "../dtk/image.h"

namespace dtk::cpu {

struct Label {
  Image image;
  int32_t connectivity;  // neighbours differ by at most 1 in each of at most this many coordinates
  int32_t* labels;       // contiguous, image.shape: 0 in the background, 1 .. count in raster order
  int32_t* count;        // one per image of the batch
  int threads;
};

// Throws std::bad_alloc when scratch cannot be had, and std::length_error for an image of more than 2^31 - 1
// runs.
void label(const Label& l);

}  // namespace dtk::cpu
