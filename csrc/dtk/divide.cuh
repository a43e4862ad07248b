// Divide and conquer over the monotone argmin: bounded work, for lines of any length.
//
// For two voxels p < q of one class the best sites are in order: for j < a(p),
//   cost(j, q) - cost(a(p), q) = cost(j, p) - cost(a(p), p) + 2 w (q - p) (a(p) - j) > 0,
// whatever ties were broken how. A neighbour of the other class is itself a site at distance 0 and bounds
// the search in the same way. So the two ends and the multiples of a large stride are solved first, then
// those of half the stride (kBranchLog2 = 1) or a quarter of it (2: fewer levels, barriers and intervals for
// a few more candidates): each level searches only between the sites of its two solved neighbours, at most
// 2^kBranchLog2 - 1 times n + rows candidates. The voxel's own value bounds the distance of a better site
// (Squares::reach) and usually ends the search much sooner. Neither stack nor division.
//
// Rounding in float: a bound from p hides a better site of q only where the two sites cost p the same
// within rounding, and then they cost q the same within a like amount: the Lipschitz property of the
// square root of the minimum keeps cost(p) <= 4 cost(q) in every such case, and the product of that
// growth over all levels stays below 2. The result is within a few units in the last place of the
// minimum over all candidates.
//
// Threads: lane = thread % lanes; the rows of a level go round the rows of threads, so a warp of a
// 32-lane tile works on one voxel position of 32 lines and its shared memory accesses stay in rows.
// At the first levels there are fewer positions than rows of threads: there several threads search
// interleaved parts of one interval and combine their minima through shared memory.
#pragma once
#include "tile.cuh"

namespace dtk {

// Solves the multiples of 1 << kShift and the last voxel of every active lane; their sites are at [slot(p)].
template <int kShift, int kBranchLog2>
struct Bisection {
  static constexpr int kBytesPerThread = 6;

  __device__ static int slot(int p) { return (p + (1 << kShift) - 1) >> kShift; }

  // Candidate interval of voxel p between its solved neighbours, the multiples of `gap` (0: none) or the end.
  template <bool kSigned, typename Value, typename Site, typename Values>
  __device__ static void interval(const Tile<Value, Site, Values>& tile, const Squares<Value>& squares,
                                  int lane, int p, int gap, int* low, int* high) {
    using S = Squares<Value>;
    DTK_COUNT(intervals, 1);
    const Value own = tile.value[tile.at(p, lane)];
    const int reach = squares.reach(S::magnitude(own), tile.length);
    *low = p - reach;
    *high = p + reach;
    int first = 0, last = tile.length - 1;
    if (gap > 0) {
      const auto bound = [&](int q) {
        const bool same = !kSigned || S::negative(tile.value[tile.at(q, lane)]) == S::negative(own);
        return same ? int(tile.nearest[slot(q) * tile.site_pitch + lane]) : q;
      };
      const int left = p & -gap;
      first = bound(left);
      last = bound(smaller(left + gap, last));
    }
    *low = larger(*low, first);
    *high = smaller(*high, last);
  }

  // Best of the sites low, low + stride, ... high, against p itself.
  template <bool kSigned, typename Value, typename Site, typename Values>
  __device__ static typename Squares<Value>::Cost search(const Tile<Value, Site, Values>& tile,
                                                         const Squares<Value>& squares, int lane, int p,
                                                         int low, int high, int stride, int* site) {
    using S = Squares<Value>;
    const Value own = tile.value[tile.at(p, lane)];
    const Value sign = S::negative(own) ? Value(-1) : Value(1);
    auto best = S::magnitude(own);
    Value nearest = Value(0);  // steps from p
    auto value = tile.value + tile.at(low, lane);
    Value k = Value(low - p);
    DTK_COUNT(candidates, low <= high ? (high - low) / stride + 1 : 0);
#pragma unroll 4
    for (int j = low; j <= high; j += stride) {
      const auto cost = S::template offer<kSigned>(*value, sign) + squares.steps(k);
      if (cost < best) {
        best = cost;
        nearest = k;
      }
      value += stride * tile.pitch;
      k += Value(stride);
    }
    *site = p + int(nearest);
    return best;
  }

  template <bool kSigned, typename Value, typename Site, typename Values>
  __device__ static void solve(const Tile<Value, Site, Values>& tile, const Squares<Value>& squares) {
    const int last = tile.length - 1;
    int shift = kShift;
    while (1 << (shift + kBranchLog2) <= last) shift += kBranchLog2;
    // Level 0 holds the two ends and the multiples of the largest stride, each later level those of its
    // stride that none before it held.
    level<kSigned>(tile, squares, shift, last > 0 ? ((last - 1) >> shift) + 2 : 1, true);
    while (shift > kShift) {
      shift -= kBranchLog2;
      const int multiples = (last - 1) >> shift;  // above 0 and below the last voxel
      level<kSigned>(tile, squares, shift, multiples - (multiples >> kBranchLog2), false);
    }
  }

 private:
  // The i-th voxel of a level: without the last voxel, multiples of 1 << shift but not of the stride before.
  __device__ static int position(int i, int shift, int last, bool first) {
    if (first) return smaller(i << shift, last);
    return (i + i / ((1 << kBranchLog2) - 1) + 1) << shift;
  }

  template <bool kSigned, typename Value, typename Site, typename Values>
  __device__ static void level(const Tile<Value, Site, Values>& tile, const Squares<Value>& squares,
                               int shift, int positions, bool first) {
    const int lane = tile.lane();
    const bool active = tile.lane_active(lane);
    const int last = tile.length - 1;
    const int rows = tile.row_count();
    int parts_log2 = 0;
    while ((positions << (parts_log2 + 1)) <= rows) ++parts_log2;
    if (parts_log2 == 0) {
      if (active) {
        for (int i = tile.row(); i < positions; i += rows) {
          const int p = position(i, shift, last, first);
          int low, high, site;
          interval<kSigned>(tile, squares, lane, p, first ? 0 : 1 << (shift + kBranchLog2), &low, &high);
          search<kSigned>(tile, squares, lane, p, low, high, 1, &site);
          tile.nearest[slot(p) * tile.site_pitch + lane] = Site(site);
        }
      }
      __syncthreads();
      return;
    }
    // Few positions: position i belongs to rows i * parts .. of threads, each with its own offset.
    auto* part_cost = static_cast<typename Squares<Value>::Cost*>(tile.per_thread);
    auto* part_site = reinterpret_cast<uint16_t*>(part_cost + tile.threads);
    const int parts = 1 << parts_log2;
    const int i = tile.row() >> parts_log2;
    const int part = tile.row() & (parts - 1);
    const bool mine = active && i < positions;
    const int p = position(i, shift, last, first);
    if (mine) {
      int low, high, site;
      interval<kSigned>(tile, squares, lane, p, first ? 0 : 1 << (shift + kBranchLog2), &low, &high);
      part_cost[tile.thread] = search<kSigned>(tile, squares, lane, p, low + part, high, parts, &site);
      part_site[tile.thread] = uint16_t(site);
    }
    __syncthreads();
    if (mine && part == 0) {
      auto best = part_cost[tile.thread];
      int site = part_site[tile.thread];
      for (int other = 1; other < parts; ++other) {
        const int at = tile.thread + (other << tile.lanes_log2);
        if (part_cost[at] < best) {
          best = part_cost[at];
          site = part_site[at];
        }
      }
      tile.nearest[slot(p) * tile.site_pitch + lane] = Site(site);
    }
    __syncthreads();
  }
};

struct Divide {
  static constexpr int kArrays = 1;
  static constexpr int kBytesPerThread = Bisection<0, 1>::kBytesPerThread;
  static constexpr bool kInPlace = false;

  template <bool kSigned, typename Value, typename Site, typename Values>
  __device__ static void solve(const Tile<Value, Site, Values>& tile, const Squares<Value>& squares) {
    Bisection<0, 1>::solve<kSigned>(tile, squares);
  }
};

}  // namespace dtk
