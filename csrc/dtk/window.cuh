// Expanding window: from each voxel outwards on both sides until the step alone costs as much as the best
// site so far. Best inside thin objects, where it ends after a few steps and needs no barrier; its work
// is not bounded far from everything. Threads: as in divide.cuh, but every voxel is independent.
#pragma once
#include "tile.cuh"

namespace dtk {

struct Window {
  static constexpr int kArrays = 1;
  static constexpr int kBytesPerThread = 0;
  static constexpr bool kInPlace = false;

  template <bool kSigned, typename Value, typename Site, typename Values>
  __device__ static void solve(const Tile<Value, Site, Values>& tile, const Squares<Value>& squares) {
    using S = Squares<Value>;
    const int lane = tile.lane();
    if (!tile.lane_active(lane)) return;
    const auto value = tile.value + tile.at(0, lane);
    for (int p = tile.row(); p < tile.length; p += tile.row_count()) {
      const Value own = value[p * tile.pitch];
      const Value sign = S::negative(own) ? Value(-1) : Value(1);
      auto best = S::magnitude(own);
      int site = p;
      const int end = smaller(squares.reach(best, tile.length), larger(p, tile.length - 1 - p));
      int k = 1;
      for (; k <= end; ++k) {
        const auto steps = squares.steps(Value(k));
        if (!(steps < best)) break;
        if (p >= k) {
          const auto cost = S::template offer<kSigned>(value[(p - k) * tile.pitch], sign) + steps;
          if (cost < best) {
            best = cost;
            site = p - k;
          }
        }
        if (p + k < tile.length) {
          const auto cost = S::template offer<kSigned>(value[(p + k) * tile.pitch], sign) + steps;
          if (cost < best) {
            best = cost;
            site = p + k;
          }
        }
      }
      DTK_COUNT(candidates, 2 * (k - 1));
      tile.nearest[p * tile.site_pitch + lane] = Site(site);
    }
  }
};

}  // namespace dtk
