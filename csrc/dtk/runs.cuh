// Run codes: what the scan along the first axis leaves for the other axes, one or two bytes per voxel.
//
// A code holds the voxel's class in its top bit and, below it, distance - 1 to the nearest voxel of the
// other class along the scanned axis; all ones means that the line has no other class. Seven bits reach
// length 128 (distances to 127), fifteen reach 32,768, so a byte or a half-word carries everything that
// the transform needs and the image itself is read once, whatever its dtype and strides.
#pragma once
#include "config.h"

namespace dtk {

template <typename Run>
struct RunCode {
  static constexpr int kBits = 8 * int(sizeof(Run));
  static constexpr int kNone = (1 << (kBits - 1)) - 1;

  DTK_INLINE static bool foreground(Run code) { return (code >> (kBits - 1)) != 0; }
  // Distance to the other class, 0 where there is none.
  DTK_INLINE static int distance(Run code) {
    const int below = code & kNone;
    return below == kNone ? 0 : below + 1;
  }
};

}  // namespace dtk
