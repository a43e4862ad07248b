// Which site of a line is nearest to each of its voxels, the lowest among equals: the solver of nearest.cuh.
//
// A tile is up to 32 whole lines, one per lane. For every voxel p it finds the lowest j that attains
//
//   D(p) = min_j  h(j) + w (p - j)^2.
//
// The mathematics is that of divide.cuh and strips.cuh, for one class: minimisers are monotone in p, so every
// eighth voxel and the last (the marks) are solved by divide and conquer, each between the minimisers of its
// solved neighbours; then a thread offers the sites between two marks to the eight voxels of a strip, in
// registers. The voxel's own h bounds how far a site of equal cost can be, and where no strip of the block
// reaches far the marks are left out. What differs is the tie.
//
// Ties. A mark keeps the first and the last of its minimisers, and its right neighbours search from the
// first, its left neighbours up to the last: every minimiser of p' > p is right of, or equal to, all of p.
// Candidates of a strip come in ascending order and only a smaller cost replaces one, so the lowest stays.
//
// Three arithmetics (a Metric):
//   Keyed    voxel counts and positions in one word, h 2^b + j with costs w = 2^b: all candidates at p are
//   distinct
//            integers, of which the smallest has the smallest square and, among those, the lowest j. One
//            minimum per candidate, no comparison of positions. For sides up to about 800 in volumes, 1,024
//            in images.
//   Exact    voxel counts in 32 bits, positions beside them
//   Rounded  float32, h + w k^2 with the product rounded before the sum; a tie is an equality of such sums
//
// Rounding. A mark of Rounded keeps the first and last j whose computed square is within a factor 1 + 32u (u
// = 2^-24) of its minimum C. A j left of these is worse than the minimiser b by more than 32u C - 6.2u C at
// p, ideally, and by 2w per voxel more at every p' > p. There it is as good as b within rounding only if 25u
// C + 2w (p' - p) < 6.2u C(p', b), but C(p', b) <= 2C + 2w (p' - p)^2, and p' - p <= 2^15: never. So no
// computed tie is excluded either, and the result is that of a search over all j, bit for bit.
//
// Threads: rows of lanes, as in divide.cuh; every thread takes strips in turn. At the first levels of the
// marks several threads share an interval and meet by atomicMin in shared memory, whose result has no order.
#pragma once
#include "rows.cuh"

namespace dtk {

// Steps from one site to the voxels of a strip in turn, in integers: (k - r)^2 = k^2 - 2 r k + r^2, where r^2
// is left out, since all candidates of a voxel lack it alike, and 64 > 7^2 keeps the rest positive.
struct IntegerSteps {
  uint32_t cost, twice;

  __device__ IntegerSteps(int k, int shift)
      : cost(uint32_t(k * k + 64) << shift), twice(uint32_t(2 * k) << shift) {}
  __device__ uint32_t next() {
    const uint32_t now = cost;
    cost -= twice;
    return now;
  }
};

struct Keyed {
  using Cost = uint32_t;
  static constexpr bool kKeyed = true;
  static constexpr bool kInteger = true;

  int shift;        // bits of a position
  uint32_t absent;  // square of a voxel without a site: above all real ones

  template <typename Params>
  __device__ Keyed(const Params& params, int64_t) : shift(params.key_bits), absent(params.key_absent) {}

  __device__ Cost none() const { return absent; }
  __device__ Cost square(int dx, int dy) const { return uint32_t(dx * dx + dy * dy); }
  __device__ Cost held(Cost square, int p) const { return square << shift | uint32_t(p); }
  __device__ Cost square_of(Cost held) const { return held >> shift; }
  __device__ int site_of(Cost held) const { return int(held & ((1u << shift) - 1)); }
  __device__ Cost steps(int k) const { return uint32_t(k * k) << shift; }
  __device__ Cost plain_steps(int k) const { return uint32_t(k * k); }
  __device__ IntegerSteps steps_from(int k) const { return IntegerSteps(k, shift); }
  // Sites that cost no more than `own` are at most its integer root away, which the rounded root never falls
  // below (Squares<int32_t>::reach).
  __device__ int reach(Cost held, int length) const {
    const Cost own = held >> shift;
    return own >= absent ? length : int(root_of_integer(float(own)));
  }
};

struct Exact {
  using Cost = uint32_t;
  static constexpr bool kKeyed = false;
  static constexpr bool kInteger = true;

  template <typename Params>
  __device__ Exact(const Params&, int64_t) {}

  __device__ static Cost none() { return 0x7fffffffu; }
  __device__ Cost square(int dx, int dy) const { return uint32_t(dx * dx + dy * dy); }
  __device__ Cost held(Cost square, int) const { return square; }
  __device__ Cost square_of(Cost held) const { return held; }
  __device__ Cost steps(int k) const { return uint32_t(k * k); }
  __device__ Cost plain_steps(int k) const { return steps(k); }
  __device__ IntegerSteps steps_from(int k) const { return IntegerSteps(k, 0); }
  __device__ int reach(Cost own, int length) const {
    return own >= none() ? length : int(root_of_integer(float(own)));
  }
  __device__ static uint32_t bits(Cost cost) { return cost; }
  __device__ static Cost tied_with(uint32_t bits) { return bits; }
};

struct Rounded {
  using Cost = float;
  static constexpr bool kKeyed = false;
  static constexpr bool kInteger = false;

  float weight_x, weight_y;
  Squares<float> along;

  struct Steps {
    const Squares<float>& along;
    float k;
    __device__ float next() {
      const float now = along.steps(k);
      k -= 1.0f;
      return now;
    }
  };

  template <typename Params>
  __device__ Rounded(const Params& params, int64_t group)
      : weight_x(axis_weight(params, group, params.column[2])),
        weight_y(axis_weight(params, group, params.column[1])),
        along(axis_weight(params, group, params.column[0])) {}

  __device__ static Cost none() { return Squares<float>::none(); }
  // A term is the correctly rounded square of an integer times the weight, as in Squares<float>::steps.
  __device__ Cost square(int dx, int dy) const {
    return weight_x * (float(dx) * float(dx)) + weight_y * (float(dy) * float(dy));
  }
  __device__ Cost held(Cost square, int) const { return square; }
  __device__ Cost square_of(Cost held) const { return held; }
  __device__ Cost steps(int k) const { return along.steps(float(k)); }
  __device__ Cost plain_steps(int k) const { return steps(k); }
  __device__ Steps steps_from(int k) const { return {along, float(k)}; }
  __device__ int reach(Cost own, int length) const { return along.reach(own, length); }
  // Costs are not negative, so their bits are ordered as they are. 64 units of the last place are at least a
  // factor 1 + 32u.
  __device__ static uint32_t bits(Cost cost) { return __float_as_uint(cost); }
  __device__ static Cost tied_with(uint32_t bits) {
    return __uint_as_float(smaller(bits + 64u, 0x7f800000u));
  }
};

// Up to 32 lines of one block. `alive` lanes have a site.
template <typename Metric>
struct ArgTile {
  using Cost = typename Metric::Cost;
  static constexpr int kShift = 3;
  static constexpr int kRows = 1 << kShift;
  static constexpr int kNear = 8;
  static constexpr int kBranchLog2 = 2;  // of the divide and conquer: levels quarter the stride

  const Cost* value;  // h(j), as the metric holds it, of a lane at [at(j)]
  uint16_t* nearest;  // the result at [at(p)]
  uint32_t*
      marks;  // the least cost of marks, at [at(slot(p))]; but for Keyed, their first and last minimisers
  int length;
  int lanes_log2;
  uint32_t active;  // bits: lanes that have a site

  __device__ int lane() const { return int(threadIdx.x) & ((1 << lanes_log2) - 1); }
  __device__ int row() const { return int(threadIdx.x) >> lanes_log2; }
  __device__ int row_count() const { return int(blockDim.x) >> lanes_log2; }
  __device__ int at(int p) const { return (p << lanes_log2) + lane(); }
  __device__ bool alive() const { return (active >> lane() & 1) != 0; }

  __device__ static int slot(int p) { return (p + kRows - 1) >> kShift; }
  __device__ static int slots(int length) { return slot(length - 1) + 1; }
  __device__ uint32_t* firsts() const { return marks + (slots(length) << lanes_log2); }
  __device__ uint32_t* lasts() const { return firsts() + (slots(length) << lanes_log2); }
  __device__ int first_of(const Metric& metric, int p) const {
    if constexpr (Metric::kKeyed) {
      return metric.site_of(marks[at(slot(p))]);
    } else {
      return int(firsts()[at(slot(p))]);
    }
  }
  __device__ int last_of(const Metric& metric, int p) const {
    if constexpr (Metric::kKeyed) {
      return metric.site_of(marks[at(slot(p))]);
    } else {
      return int(lasts()[at(slot(p))]);
    }
  }

  // All threads of the block call this after a barrier, and wait at one before they read the result.
  __device__ void solve(const Metric& metric) const {
    const int strips = (length + kRows - 1) >> kShift;
    bool reaches_far = false;
    if (alive()) {
      for (int s = row(); s < strips; s += row_count()) reaches_far = reaches_far || reach(metric, s) > kNear;
    }
    const bool far = __syncthreads_or(reaches_far) != 0 && strips > 2;
    if (far) place_marks(metric);
    if (!alive()) return;
    for (int s = row(); s < strips; s += row_count()) fill(metric, s, far);
  }

 private:
  __device__ int reach(const Metric& metric, int strip) const {
    Cost largest = 0;
    for (int r = 0; r < kRows; ++r)
      largest = larger(largest, value[at(smaller(strip * kRows + r, length - 1))]);
    return metric.reach(largest, length);
  }

  __device__ void fill(const Metric& metric, int strip, bool far) const {
    const int first = strip * kRows, end = smaller(first + kRows, length);
    const int own_reach = reach(metric, strip);
    int low = larger(first - own_reach, 0), high = smaller(end - 1 + own_reach, length - 1);
    if (far) {
      low = larger(low, first_of(metric, first));
      high = smaller(high, last_of(metric, smaller(first + kRows, length - 1)));
    }
    DTK_COUNT(nearest_candidates, low <= high ? (high - low + 1) * (end - first) : 0);
    Cost best[kRows];
    int site[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      best[r] = Metric::kInteger ? Cost(0xffffffffu) : Cost(metric.none());
      site[r] = first;
    }
    for (int j = low; j <= high; ++j) {
      const Cost held = value[at(j)];
      auto steps = metric.steps_from(j - first);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Cost cost = held + steps.next();
        if constexpr (Metric::kKeyed) {
          best[r] = smaller(best[r], cost);
        } else if (cost < best[r]) {
          best[r] = cost;
          site[r] = j;
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (first + r >= end) break;
      if constexpr (Metric::kKeyed) site[r] = metric.site_of(best[r]);
      nearest[at(first + r)] = uint16_t(site[r]);
    }
  }

  // Solves the multiples of eight and the last voxel of every active lane, and ends with a barrier.
  __device__ void place_marks(const Metric& metric) const {
    const int last = length - 1;
    for (int s = row(); s < slots(length); s += row_count()) {
      marks[at(s)] = 0xffffffffu;
      if constexpr (!Metric::kKeyed) {
        firsts()[at(s)] = 0xffffffffu;
        lasts()[at(s)] = 0;
      }
    }
    __syncthreads();
    int shift = kShift;
    while (1 << (shift + kBranchLog2) <= last) shift += kBranchLog2;
    // Level 0 holds the two ends and the multiples of the largest stride, each later level those of its
    // stride that none before it held.
    level(metric, shift, ((last - 1) >> shift) + 2, true);
    while (shift > kShift) {
      shift -= kBranchLog2;
      const int multiples = (last - 1) >> shift;  // above 0 and below the last voxel
      level(metric, shift, multiples - (multiples >> kBranchLog2), false);
    }
  }

  __device__ void level(const Metric& metric, int shift, int positions, bool first) const {
    const int last = length - 1;
    int parts_log2 = 0;
    while ((positions << (parts_log2 + 1)) <= row_count()) ++parts_log2;
    // Each of 1 << parts_log2 threads takes its share of the interval of a position.
    const auto for_each_part = [&](auto body) {
      if (!alive()) return;
      for (int item = row(); item < positions << parts_log2; item += row_count()) {
        const int i = item >> parts_log2;
        const int p = first ? smaller(i << shift, last) : (i + i / ((1 << kBranchLog2) - 1) + 1) << shift;
        const int own_reach = metric.reach(value[at(p)], length);
        int low = larger(p - own_reach, 0), high = smaller(p + own_reach, last);
        if (!first) {
          const int gap = 1 << (shift + kBranchLog2), left = p & -gap;
          low = larger(low, first_of(metric, left));
          high = smaller(high, last_of(metric, smaller(left + gap, last)));
        }
        body(p, low + (item & ((1 << parts_log2) - 1)), high);
      }
    };
    for_each_part([&](int p, int low, int high) {
      DTK_COUNT(nearest_candidates, low <= high ? ((high - low) >> parts_log2) + 1 : 0);
      uint32_t least = 0xffffffffu;
      for (int j = low; j <= high; j += 1 << parts_log2) {
        const Cost cost = value[at(j)] + metric.steps(j - p);
        if constexpr (Metric::kKeyed) {
          least = smaller(least, cost);
        } else {
          least = smaller(least, Metric::bits(cost));
        }
      }
      atomicMin(&marks[at(slot(p))], least);
    });
    __syncthreads();
    if constexpr (!Metric::kKeyed) {
      for_each_part([&](int p, int low, int high) {
        const Cost tied = Metric::tied_with(marks[at(slot(p))]);
        int from = 0x7fffffff, to = -1;
        for (int j = low; j <= high; j += 1 << parts_log2) {
          if (tied < value[at(j)] + metric.steps(j - p)) continue;
          from = smaller(from, j);
          to = j;
        }
        if (to < 0) return;
        atomicMin(&firsts()[at(slot(p))], uint32_t(from));
        atomicMax(&lasts()[at(slot(p))], uint32_t(to));
      });
      __syncthreads();
    }
  }
};

}  // namespace dtk
