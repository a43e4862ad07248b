// The 16 x 16 transpose between "lanes along x" and "lanes along y".
#pragma once
#include <utility>

#include "simd.h"

namespace dtk::cpu::DTK_ISA {

// A butterfly: of two rows kSpan apart, the upper keeps its lanes whose index lacks the bit kSpan and
// takes the lower's such lanes into the gaps; the lower does the reverse. One butterfly per bit of the
// row number makes row and lane change places. The compiler picks the shuffle for each constant index.
template <int kSpan, size_t... Lane>
inline void exchange(Part& upper, Part& lower, std::index_sequence<Lane...>) {
  const Part a = upper, b = lower;
  upper = permute_pair<((Lane & kSpan) ? kPartLanes + Lane - kSpan : Lane)...>(a, b);
  lower = permute_pair<((Lane & kSpan) ? kPartLanes + Lane : Lane + kSpan)...>(a, b);
}

template <int kSpan>
inline void butterflies(Part* rows) {
  if constexpr (kSpan < kPartLanes) {
    for (int i = 0; i < kPartLanes; i++) {
      if (!(i & kSpan)) exchange<kSpan>(rows[i], rows[i + kSpan], std::make_index_sequence<kPartLanes>());
    }
    butterflies<2 * kSpan>(rows);
  }
}

inline void transpose(Vec (&rows)[kLanes]) {
  Vec result[kLanes];
  for (int i = 0; i < kParts; i++) {
    for (int j = 0; j < kParts; j++) {
      Part block[kPartLanes];
      for (int k = 0; k < kPartLanes; k++) block[k] = rows[i * kPartLanes + k].part[j];
      butterflies<1>(block);
      for (int k = 0; k < kPartLanes; k++) result[j * kPartLanes + k].part[i] = block[k];
    }
  }
  for (int k = 0; k < kLanes; k++) rows[k] = result[k];
}

}  // namespace dtk::cpu::DTK_ISA
