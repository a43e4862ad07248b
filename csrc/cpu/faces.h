// Signed distances with their zero level at the faces between voxels: the transform's own passes, in which
// every square carries where it comes from.
//
// Let q be the voxel of the other class nearest to p. The way from q to p leaves the cell of q across the
// axis along which they are the most voxels apart, of several such axes the narrowest, and half the spacing
// of that axis is what the distance loses (dtkernels/remap.py). Beside its square each voxel of a slice has a
// word for the q found so far, which the solver hands on with the candidate that wins:
//
//   bit 31      p's class
//   bits 16-30  p's place on the line to be solved
//   bits 1-15   the most voxels between p and q along the axes already done
//   bit 0       the axis that this is: of z and y the one that wins a tie, since it is no wider, has a 1
//
// A line of one class sees voxels of the other as sites at height 0, whatever they carry: the winner's class
// tells. Bits 0 to 15 order as the rule does, so that an axis is added by a maximum. The x axis need not be
// among them, being the last.
//
// Ties. Each axis takes the lowest of its minimisers, and the axes come in the order z, y, x. So the voxel q
// is of all the nearest the first by x, then y: the argument is that of nearest_slice.h with the axes
// reversed. By z there may be two left, equally far.
//
// A closed border. What is beyond it counts where nothing is nearer, and where something is as near. Since
// every axis has clamped by its ends, this is where the square is that of an end, and no voxel inherits it
// from another column or row, whose way to that end is as long. So it is only looked at in the end.
#pragma once
#include "arithmetic.h"
#include "passes.h"

namespace dtk::cpu::DTK_ISA {

constexpr int kPlaceShift = 16;
constexpr uint32_t kFarthest = (1u << kPlaceShift) - 1;  // the low bits

inline Vec place_of(const Vec& word) { return shift_right(word, kPlaceShift) & broadcast(0x7fffu); }
inline Vec apart(const Vec& a, const Vec& b) { return max_signed(subtract(a, b), subtract(b, a)); }

// Steps along an axis, whose tag is bit 0, as the low bits.
inline Vec farthest(const Vec& steps, uint32_t tag) { return shift_left(steps, 1) | broadcast(tag); }

// The low bits of what the solver of a line has found for the squares v.
inline Vec inherited(const Vec& v, const Vec& word) {
  return select(negative(v ^ word), broadcast(0u), word & broadcast(kFarthest));
}

// A row of the y axis after its solver: the word for the x axis, but for the place.
inline Vec after_y(const FaceTask& faces, const Vec& v, const Vec& word, int y) {
  const Vec along = farthest(apart(place_of(word), broadcast(uint32_t(y))), 1 - faces.z_tag);
  return (v & broadcast(kSignBit)) | max_signed(inherited(v, word), along);
}

// Half the spacing to take off, for a row of the x axis after its solver.
inline Vec after_x(const FaceTask& faces, const Vec& v, const Vec& word, int x) {
  const Vec low = inherited(v, word), most = shift_right(low, 1);
  const Vec steps = apart(place_of(word), broadcast(uint32_t(x)));
  const Vec across_x = broadcast(faces.half[2]);
  const Vec across = select(negative(shift_left(low, 31)), broadcast(faces.half[1 - faces.z_tag]),
                            broadcast(faces.half[faces.z_tag]));
  const Vec narrowest = min_unsigned(across, across_x);
  return select(less(most, steps), across_x, select(equal(most, steps), narrowest, across));
}

}  // namespace dtk::cpu::DTK_ISA
