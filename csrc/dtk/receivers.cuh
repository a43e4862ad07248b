// The gradient of an envelope in f: every voxel p sends its gradient to the position q(p) of its minimiser,
// and q sums what it receives. Atomics would make the sum depend on the order of threads. The minimisers were
// found axis by axis, so the way back goes axis by axis, too: along z from p to the row of its q, then along
// y, then along x. All that arrives at one voxel between two axes has the same q, so the position travels
// with the sum.
//
// One thread a line, in the order of p: deterministic. Minimisers are monotone along a line, but for
// rounding, so a thread sums in a register until the receiver changes. Bytes per voxel and axis: value and
// position in and out. Lines along x are contiguous, so a warp reads 32 of them at once, a sector each; the
// cache keeps it for what follows.
#pragma once
#include "operands.cuh"

namespace dtk {

struct Receivers {
  // source: sums after the earlier axes, none in the first pass; target: sums; second: positions that travel
  // with them, null in the last pass; scratch: positions that came with `source`.
  Operands at;
  int64_t lines;
  int64_t inner;   // elements between voxels of a line, and positions
  int64_t voxels;  // of an image
  int32_t length;  // n
  int32_t first;   // reads the image, whose memory is contiguous
};

template <typename T>
__global__ void __launch_bounds__(128) receivers(const __grid_constant__ Receivers params) {
  const T* grad = static_cast<const T*>(params.first ? params.at.image.data : params.at.source);
  const int64_t* places = static_cast<const int64_t*>(params.at.scratch);
  T* sums = static_cast<T*>(params.at.target);
  int64_t* travelling = static_cast<int64_t*>(params.at.second);
  const bool narrow = params.voxels < int64_t(1) << 32;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t line = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; line < params.lines; line += stride) {
    const int64_t start = line / params.inner * params.length * params.inner + line % params.inner;
    for (int p = 0; p < params.length; ++p) {
      sums[start + p * params.inner] = T(0);
      if (travelling != nullptr) travelling[start + p * params.inner] = -1;
    }
    int receiver = -1;
    T sum = T(0);
    for (int p = 0; p < params.length; ++p) {
      const int64_t at = start + p * params.inner, place = places[at];
      if (place < 0) continue;
      const int q = narrow ? int(uint32_t(place) / uint32_t(params.inner) % uint32_t(params.length))
                           : int(place / params.inner % params.length);
      if (q != receiver) {
        if (receiver >= 0) sums[start + receiver * params.inner] += sum;
        if (travelling != nullptr) travelling[start + q * params.inner] = place;
        receiver = q;
        sum = T(0);
      }
      sum += grad[at];
    }
    if (receiver >= 0) sums[start + receiver * params.inner] += sum;
  }
}

}  // namespace dtk
