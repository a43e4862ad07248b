// Divide and conquer over the monotone argmin: bounded work, for lines of any length.
//
// For two voxels p < q of one class the best sites are in order: for j < a(p),
//   cost(j, q) - cost(a(p), q) = cost(j, p) - cost(a(p), p) + 2 w (q - p) (a(p) - j) > 0,
// whatever ties were broken how. A neighbour of the other class is itself a site at distance 0 and bounds
// the search in the same way. So the two ends are solved first, then the middle between them, then the
// quarters: each level searches only between the sites of its two solved neighbours, at most n + rows
// candidates per level and log2(n) levels; the voxel's own value bounds the distance of a better site
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
template <int kShift>
struct Bisection {
  static constexpr int kBytesPerThread = 6;

  __device__ static int slot(int p) { return (p + (1 << kShift) - 1) >> kShift; }

  // Candidate interval of voxel p between its solved neighbours (-1: none).
  template <bool kSigned, typename Value, typename Site>
  __device__ static void interval(const Tile<Value, Site>& tile, const Squares<Value>& squares, int lane,
                                  int p, int left, int right, int* low, int* high) {
    using S = Squares<Value>;
    const Value own = tile.value[p * tile.pitch + lane];
    const int reach = squares.reach(S::magnitude(own), tile.length);
    *low = p - reach;
    *high = p + reach;
    int first = 0, last = tile.length - 1;
    if (left >= 0) {
      const bool same = !kSigned || S::negative(tile.value[left * tile.pitch + lane]) == S::negative(own);
      first = same ? int(tile.nearest[slot(left) * tile.site_pitch + lane]) : left;
    }
    if (right >= 0) {
      const bool same = !kSigned || S::negative(tile.value[right * tile.pitch + lane]) == S::negative(own);
      last = same ? int(tile.nearest[slot(right) * tile.site_pitch + lane]) : right;
    }
    *low = larger(*low, first);
    *high = smaller(*high, last);
  }

  // Best of the sites low, low + stride, ... high, against p itself.
  template <bool kSigned, typename Value, typename Site>
  __device__ static typename Squares<Value>::Cost search(const Tile<Value, Site>& tile,
                                                         const Squares<Value>& squares, int lane, int p,
                                                         int low, int high, int stride, int* site) {
    using S = Squares<Value>;
    const Value own = tile.value[p * tile.pitch + lane];
    const Value sign = S::negative(own) ? Value(-1) : Value(1);
    auto best = S::magnitude(own);
    int nearest = p;
    const Value* value = tile.value + (low * tile.pitch + lane);
    Value k = Value(low - p);
    DTK_COUNT(candidates, low <= high ? (high - low) / stride + 1 : 0);
#pragma unroll 4
    for (int j = low; j <= high; j += stride) {
      const auto cost = S::template offer<kSigned>(*value, sign) + squares.steps(k);
      if (cost < best) {
        best = cost;
        nearest = j;
      }
      value += stride * tile.pitch;
      k += Value(stride);
    }
    *site = nearest;
    return best;
  }

  template <bool kSigned, typename Value, typename Site>
  __device__ static void solve(const Tile<Value, Site>& tile, const Squares<Value>& squares) {
    const int last = tile.length - 1;
    int stride = 1 << kShift;
    while (2 * stride < last) stride *= 2;
    // Level 0 holds the two ends; each later level the odd multiples of its stride.
    level<kSigned>(tile, squares, last, last > 0 ? 2 : 1, true);
    for (; stride >= 1 << kShift; stride /= 2) {
      const int positions = last > stride ? (last - 1 - stride) / (2 * stride) + 1 : 0;
      if (positions > 0) level<kSigned>(tile, squares, stride, positions, false);
    }
  }

 private:
  template <bool kSigned, typename Value, typename Site>
  __device__ static void level(const Tile<Value, Site>& tile, const Squares<Value>& squares, int stride,
                               int positions, bool ends) {
    const int lane = tile.lane();
    const bool active = tile.lane_active(lane);
    const int last = tile.length - 1;
    const int rows = tile.row_count();
    int parts_log2 = 0;
    while ((positions << (parts_log2 + 1)) <= rows) ++parts_log2;
    if (parts_log2 == 0) {
      if (active) {
        for (int i = tile.row(); i < positions; i += rows) {
          const int p = ends ? i * stride : stride * (2 * i + 1);
          int low, high, site;
          interval<kSigned>(tile, squares, lane, p, ends ? -1 : p - stride,
                            ends ? -1 : smaller(p + stride, last), &low, &high);
          search<kSigned>(tile, squares, lane, p, low, high, 1, &site);
          tile.nearest[slot(p) * tile.site_pitch + lane] = Site(site);
        }
      }
      __syncthreads();
      return;
    }
    // Few positions: position i belongs to rows i * parts .. of threads, each with its own offset.
    auto* part_cost = static_cast<typename Squares<Value>::Cost*>(tile.per_thread);
    auto* part_site = reinterpret_cast<uint16_t*>(part_cost + blockDim.x);
    const int parts = 1 << parts_log2;
    const int i = tile.row() >> parts_log2;
    const int part = tile.row() & (parts - 1);
    const bool mine = active && i < positions;
    const int p = ends ? i * stride : stride * (2 * i + 1);
    if (mine) {
      int low, high, site;
      interval<kSigned>(tile, squares, lane, p, ends ? -1 : p - stride, ends ? -1 : smaller(p + stride, last),
                        &low, &high);
      part_cost[threadIdx.x] = search<kSigned>(tile, squares, lane, p, low + part, high, parts, &site);
      part_site[threadIdx.x] = uint16_t(site);
    }
    __syncthreads();
    if (mine && part == 0) {
      auto best = part_cost[threadIdx.x];
      int site = part_site[threadIdx.x];
      for (int other = 1; other < parts; ++other) {
        const int at = int(threadIdx.x) + (other << tile.lanes_log2);
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
  static constexpr int kBytesPerThread = Bisection<0>::kBytesPerThread;
  static constexpr bool kInPlace = false;

  template <bool kSigned, typename Value, typename Site>
  __device__ static void solve(const Tile<Value, Site>& tile, const Squares<Value>& squares) {
    Bisection<0>::solve<kSigned>(tile, squares);
  }
};

}  // namespace dtk
