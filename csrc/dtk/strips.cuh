// Strips of eight voxels per thread: divide and conquer on every eighth voxel, then a register-blocked
// min-plus of eight voxels over the short interval of sites that the two solved ends leave.
//
// The last three levels of divide.cuh hold seven voxels of eight, and for each of them a thread spends as
// much on finding its interval as on searching it, and keeps a site that nobody reads. Here one thread holds
// the eight minima of a strip in registers, reads every site of the strip's interval once and offers it to
// all eight: no comparison of sites, no selection, and in integers an addition and a minimum per candidate
// (a selection more where the strip holds both classes),
//   (k - r)^2 = k^2 - 2 r k + r^2,   k = j - p0,  r = 0 .. 7,
// where r^2 is left out of the minimum until the end and k^2 - 2 r k follows by subtracting 2 k each time.
//
// The interval is bounded by the sites of the strip's first voxel and of the next strip's first voxel (or
// the last voxel of the line), as in divide.cuh, and by the reach of the strip's largest value. Where no
// strip of the block reaches further than kNear, or the line has no more than two strips, the first stage is
// left out.
//
// A strip that reaches no further than kNear first offers every voxel's two neighbours to it, in registers:
// where that leaves nothing within reach (noise, thin objects), it is done after 2 candidates a voxel.
//
// Threads: as divide.cuh, a row of threads per strip; a tile has a thread for every strip and lane.
#pragma once
#include "divide.cuh"

namespace dtk {

struct Strips {
  static constexpr int kShift = 3;
  static constexpr int kRows = 1 << kShift;
  using Coarse = Bisection<kShift, 2>;
  static constexpr int kNear = 6;
  static constexpr int kArrays = 1;  // of one site per strip, and one for the last voxel
  static constexpr int kBytesPerThread = Coarse::kBytesPerThread;
  static constexpr bool kInPlace = true;

  // Costs of the steps from one site to the voxels of a strip in turn, and what the minima leave out.
  template <typename Value>
  struct Steps;

  template <bool kSigned, typename Value, typename Site, typename Values>
  __device__ static void solve(const Tile<Value, Site, Values>& tile, const Squares<Value>& squares) {
    using S = Squares<Value>;
    const int lane = tile.lane();
    const int first = tile.row() * kRows;
    const bool mine = tile.lane_active(lane) && first < tile.length;
    const int count = smaller(kRows, tile.length - first);  // of voxels; not positive where there is no strip
    DTK_COUNT(strips, mine ? 1 : 0);

    typename S::Cost best[kRows];
    typename S::Cost largest = 0;
    uint32_t negative = 0;  // bit r: voxel r is foreground of a signed transform
    auto from = tile.value + tile.at(first, lane);
#pragma unroll
    for (int r = 0; r < kRows; ++r, from += tile.pitch) {
      best[r] = 0;
      if (mine && r < count) {
        const Value own = *from;
        best[r] = S::magnitude(own);
        largest = larger(largest, best[r]);
        negative |= uint32_t(S::negative(own)) << r;
      }
    }
    int reach = squares.reach(largest, tile.length);
    int low = first - reach, high = first + count - 1 + reach;

    const bool far = __syncthreads_or(mine && reach > kNear) != 0 && tile.length > 2 * kRows;
    if (far) {
      Coarse::solve<kSigned>(tile, squares);  // ends with a barrier
      if (mine) {
        // A voxel of an end's class has its site between those of the two ends; for one of the other class
        // the end itself is a site. A strip's first voxel is of its own class.
        const uint32_t all = (1u << count) - 1;
        const auto site_of = [&](int p) {
          return int(tile.nearest[Coarse::slot(p) * tile.site_pitch + lane]);
        };
        const bool mixed = kSigned && negative != 0 && negative != all;
        low = larger(low, mixed ? smaller(site_of(first), first) : site_of(first));
        const int next = smaller(first + kRows, tile.length - 1);
        const bool next_negative = S::negative(tile.value[tile.at(next, lane)]);
        const uint32_t like_next = kSigned ? (next_negative ? negative : ~negative & all) : all;
        int bound = like_next != 0 ? site_of(next) : next;
        if (like_next != all) bound = larger(bound, next);
        high = smaller(high, bound);
      }
    }
    low = larger(low, 0);
    high = smaller(high, tile.length - 1);

    if (mine && reach > 0 && reach <= kNear) {
      offer_neighbours<kSigned>(tile, squares, lane, first, count, negative, best);
      largest = 0;
#pragma unroll
      for (int r = 0; r < kRows; ++r) largest = larger(largest, best[r]);
      reach = squares.reach(largest, tile.length);
      if (reach == 1) reach = 0;
      low = larger(low, first - reach);
      high = smaller(high, first + count - 1 + reach);
    }
    if (mine && reach > 0) {
      DTK_COUNT(strip_candidates, low <= high ? (high - low + 1) * count : 0);
      const uint32_t all = (1u << count) - 1;
      if (!kSigned || negative == 0 || negative == all) {
        offer_all<kSigned, false>(tile, squares, lane, first, low, high, negative, best);
      } else {
        offer_all<kSigned, true>(tile, squares, lane, first, low, high, negative, best);
      }
    }
    __syncthreads();
    if (!mine) return;
    auto to = tile.value + tile.at(first, lane);
#pragma unroll
    for (int r = 0; r < kRows; ++r, to += tile.pitch)
      if (r < count) *to = S::with_sign(best[r], kSigned && (negative >> r & 1) ? Value(-1) : Value(1));
  }

 private:
  // best[r] = min(best[r], the two neighbours of voxel r).
  template <bool kSigned, typename Value, typename Site, typename Values>
  __device__ static void offer_neighbours(const Tile<Value, Site, Values>& tile,
                                          const Squares<Value>& squares, int lane, int first, int count,
                                          uint32_t negative, typename Squares<Value>::Cost (&best)[kRows]) {
    using S = Squares<Value>;
    DTK_COUNT(strip_candidates, 2 * count);
    const auto step = squares.steps(Value(1));
    const auto own = [&](int r) {
      return S::with_sign(best[r], kSigned && (negative >> r & 1) ? Value(-1) : Value(1));
    };
    Value before = first > 0 ? tile.value[tile.at(first - 1, lane)] : own(0);
    const bool has_behind = first + count < tile.length;
    const Value behind = has_behind ? tile.value[tile.at(first + count, lane)] : Value(0);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= count) break;
      const Value now = own(r);
      const Value after = r + 1 < count ? own((r + 1) % kRows) : has_behind ? behind : now;
      const Value sign = kSigned && (negative >> r & 1) ? Value(-1) : Value(1);
      const auto offer =
          smaller(S::template offer<kSigned>(before, sign), S::template offer<kSigned>(after, sign));
      best[r] = smaller(best[r], offer + step);
      before = now;
    }
  }

  // best[r] = min(best[r], every site low .. high); kMixed: the strip has voxels of both classes.
  template <bool kSigned, bool kMixed, typename Value, typename Site, typename Values>
  __device__ static void offer_all(const Tile<Value, Site, Values>& tile, const Squares<Value>& squares,
                                   int lane, int first, int low, int high, uint32_t negative,
                                   typename Squares<Value>::Cost (&best)[kRows]) {
    using S = Squares<Value>;
    const Value sign = kSigned && (negative & 1) ? Value(-1) : Value(1);
    auto site = tile.value + tile.at(low, lane);
#pragma unroll
    for (int r = 0; r < kRows; ++r) best[r] = Steps<Value>::leave_out(best[r], r);
    for (int j = low; j <= high; ++j, site += tile.pitch) {
      Steps<Value> steps(squares, j - first);
      const Value g = *site;
      const auto offer = S::template offer<kSigned>(g, kMixed ? Value(1) : sign);
      const auto offer_negative = kMixed ? S::template offer<kSigned>(g, Value(-1)) : offer;
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        best[r] = smaller(best[r], (kMixed && (negative >> r & 1) ? offer_negative : offer) + steps.next());
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) best[r] = Steps<Value>::put_back(best[r], r);
  }
};

template <>
struct Strips::Steps<int32_t> {
  // A constant above 7^2 keeps the differences positive, and far below 2^32 with kNone and any k^2.
  static constexpr uint32_t kAbove = 64;
  uint32_t cost, twice;

  __device__ Steps(const Squares<int32_t>&, int32_t k)
      : cost(uint32_t(k * k) + kAbove), twice(uint32_t(2 * k)) {}
  __device__ uint32_t next() {
    const uint32_t now = cost;
    cost -= twice;
    return now;
  }
  __device__ static uint32_t leave_out(uint32_t best, int r) { return best + kAbove - uint32_t(r * r); }
  __device__ static uint32_t put_back(uint32_t best, int r) { return best - kAbove + uint32_t(r * r); }
};

template <>
struct Strips::Steps<float> {
  const Squares<float>& squares;
  float k;

  __device__ Steps(const Squares<float>& s, int32_t first) : squares(s), k(float(first)) {}
  __device__ float next() {
    const float now = squares.steps(k);
    k -= 1.0f;
    return now;
  }
  __device__ static float leave_out(float best, int) { return best; }
  __device__ static float put_back(float best, int) { return best; }
};

}  // namespace dtk
