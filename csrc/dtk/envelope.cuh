// Lower envelope of parabolas, one lane per line: the reference solver.
//
// Felzenszwalb & Huttenlocher 2012, with the integer bookkeeping of Meijster, Roerdink & Hesselink 2000:
// the stack holds sites and the first position where each becomes the cheapest, so intersections are
// floor divisions and exact in integers.
//
// The clamp of tile.cuh makes the envelope of a line depend on the class of p, so the line is cut into its
// runs of equal class. For a run [first, last] the sites are its own voxels and the voxel before and
// after it, which offer 0; whatever lies further is dominated by those two. In an unsigned transform the
// runs of background are done at once.
//
// Starts within a run strictly increase from `first`, so the k-th entry of the stack can live at position
// first + k of the lane's own columns. Reading the envelope from right to left, position p is written
// only when entries up to p - first are left, so the stack turns into the result in place.
//
// Threads: only row 0 works, one thread per lane; the others wait at the caller's barrier.
#pragma once
#include "tile.cuh"

namespace dtk {

struct Envelope {
  static constexpr int kArrays = 2;
  static constexpr int kBytesPerThread = 0;
  static constexpr bool kInPlace = false;

  template <bool kSigned, typename Value, typename Site, typename Values>
  __device__ static void solve(const Tile<Value, Site, Values>& tile, const Squares<Value>& squares) {
    using S = Squares<Value>;
    const int lane = tile.lane();
    if (tile.row() != 0 || !tile.lane_active(lane)) return;
    const int length = tile.length;
    Site* start = tile.nearest + length * tile.site_pitch;
    // The class of a voxel within its line.
    const auto inside = [&](int p) {
      const Value v = tile.value[tile.at(p, lane)];
      return kSigned ? S::negative(v) : v != Value(0);
    };
    int last = -1;
    for (int first = 0; first < length; first = last + 1) {
      const bool in = inside(first);
      last = first;
      while (last + 1 < length && inside(last + 1) == in) ++last;
      if (!kSigned && !in) {
        for (int p = first; p <= last; ++p) tile.nearest[p * tile.site_pitch + lane] = Site(p);
        continue;
      }
      const Value sign = kSigned && in ? Value(-1) : Value(1);
      const auto cost_at = [&](int j) {
        return S::template offer<kSigned>(tile.value[tile.at(j, lane)], sign);
      };
      int top = first - 1;  // position of the top of the stack; below `first` it is empty
      for (int j = larger(first - 1, 0); j <= smaller(last + 1, length - 1); ++j) {
        const auto cost = cost_at(j);
        if (cost == typename S::Cost(S::none())) continue;
        int begin = first;
        while (top >= first) {
          DTK_COUNT(candidates, 1);
          const int site = tile.nearest[top * tile.site_pitch + lane];
          begin = squares.overtakes(site, cost_at(site), j, cost, first, last + 1);
          if (begin > int(start[top * tile.site_pitch + lane])) break;
          --top;
          begin = first;
        }
        if (begin > last) continue;
        ++top;
        tile.nearest[top * tile.site_pitch + lane] = Site(j);
        start[top * tile.site_pitch + lane] = Site(begin);
      }
      for (int p = last; p >= first; --top) {
        const int site = tile.nearest[top * tile.site_pitch + lane];
        const int begin = start[top * tile.site_pitch + lane];
        for (; p >= begin; --p) tile.nearest[p * tile.site_pitch + lane] = Site(site);
      }
    }
  }
};

}  // namespace dtk
