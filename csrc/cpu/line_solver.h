// One axis of the transform: n rows of 16 independent lines.
//
// A line holds g(j), the squared distance from voxel j to the nearest voxel of the opposite class within
// the axes already done; in signed transforms the sign bit carries the class. Wanted is
//
//   D(p) = min over j of h(j) + w (p - j)^2,   h(j) = g(j) if j has p's class, else 0,
//
// since a voxel of the other class is itself a site. Beyond the end of p's run of equal class this h is not
// the truth (there, voxels of p's class count the sites of the other side), but the first voxel
// after the run is a site at a smaller offset and beats them all. So one sweep serves both signs, and
// h is one clamp: max(g(j) with p's sign divided out, 0).
//
// Three facts about D make it cheap:
//
// 1. Window. Only j with w (p - j)^2 < h(p) can beat j = p. Near the boundary a search that widens step by
//    step and stops when the step costs as much as the best so far is the fastest thing there is.
// 2. Lipschitz. sqrt(D) is the distance of point (p sqrt(w), 0) to the set of points (j sqrt(w), sqrt(h(j))).
//    So it changes by at most sqrt(w) per row, and one row of a block of 16 tells whether the block is near.
// 3. Monotone argmin. For i < j, the lead of i over j, h(j) - h(i) + w ((p-j)^2 - (p-i)^2), is
//    strictly decreasing in p. If j does not lose to i at p, it beats i at every p' > p. So a minimiser
//    of any p' > p is never left of a minimiser of p, whichever minimiser a tie picks. This holds for any
//    h, hence for each class's own h. Far blocks find the argmin of every 16th row by bisection over rows,
//    and then search only between the argmins of the rows above and below. (Every 8th row is slower for
//    signed maps.)
//
// Rounding. In ExactSquares fact 3 is exact. In RoundedSquares a computed candidate C is the ideal one M
// (with the given h and w) times 1 + e, |e| <= 3u, u = 2^-24 (two roundings in the table, one in the sum).
// Let b be the computed minimiser of row p, and j < b an ideal minimiser of some p' > p. Then
// M(p, b) - M(p, j) is at most 6.2u C(p, b), and fact 3 turns that into
// M(p', b) - M(p', j) <= 6.2u C(p, b) - 2w. So b is as good as j, and nothing is lost, whenever
// C(p, b) < 2^22 w: when the nearest site is less than 2,048 of this axis' voxels away. Otherwise (extreme
// anisotropy) a row reports not its argmin but the first and last j within a factor 1 + 16u of its
// minimum: a row outside them is ideally worse than b at p, on the outer side, hence at all p' beyond. Either
// way no ideal minimiser is excluded, and D(p) is within 3u of the ideal minimum at any anisotropy.
//
// Carrying. Rows may carry a word per lane that goes with their h, and D(p) gets the word of its minimiser,
// of the lowest among equals: candidates come in ascending order and yield to equals, except that a window
// also looks upwards, in descending order, where they do not. A landmark reports the lowest of its
// minimisers. So its own row finds that one, and by fact 3 the rows below have all of theirs from there on.
#pragma once
#include "arithmetic.h"
#include "passes.h"

namespace dtk::cpu::DTK_ISA {

// What the first row of a block knows, per class.
struct Landmark {
  Vec first, last;  // lanes: where the minimisers of this row lie
  int lo, hi;       // the extremes over lanes
  int reach;        // of the row's own values, before the search
  uint32_t top;     // the largest minimum over lanes; before the search, the largest own value
};

struct LineScratch {
  Landmark* landmarks[2];  // per class, n / 16 + 2 entries
  int* wanted[2];          // per class: the landmarks that far blocks need, ascending
  uint8_t* kind;           // per block
};

// The union of the lanes' intervals, as few disjoint intervals.
struct Intervals {
  int count, total;
  int lo[kLanes], hi[kLanes];
};

template <class Arithmetic, bool kSigned, bool kCarry = false>
class LineSolver {
 public:
  LineSolver(const AxisCost& axis, const LineScratch& scratch)
      : cost_(axis.cost), inverse_weight_(axis.inverse_weight), scratch_(scratch) {}

  // Rows of 16 lanes at `in` and `out`, both with room for n rounded up to a multiple of 16. Clobbers `in`.
  // With kCarry the rows of `carried` go with those of `in`, and `carried_out` gets what the minimisers
  // carry.
  void solve(uint32_t* in, int n, uint32_t* out, const uint32_t* carried = nullptr,
             uint32_t* carried_out = nullptr) {
    in_ = in;
    out_ = out;
    carried_ = carried;
    carried_out_ = carried_out;
    n_ = n;
    blocks_ = (n + kBlock - 1) / kBlock;
    Vec dead_value;
    Mask dead{};
    const int dead_lanes = may_have_dead_lanes() ? find_dead_lanes(dead, dead_value) : 0;
    if (dead_lanes == kLanes) {
      for (int p = 0; p < n; p++) store_row(out, p, dead_value);
      return;
    }
    if (dead_lanes > 0) {
      for (int p = 0; p < n; p++) store_row(in, p, select(dead, broadcast(0u), row(p)));
    }
    if (!settle_near_blocks()) settle_far_blocks();
    if (dead_lanes > 0) {
      for (int p = 0; p < n; p++) store_row(out, p, select(dead, dead_value, load(out + size_t(p) * kLanes)));
    }
  }

 private:
  static constexpr int kBlock = 16;
  static constexpr int kProbe = 12;  // steps before a block counts as far
  static constexpr int kNarrow = 8;  // landmarks do not search intervals of this length
  static constexpr int kWide = 32;   // unions of lanes' intervals longer than this may be split
  static constexpr int kRows = kParts == 1 ? 8 : 4;  // rows that the fill keeps in registers
  // Kinds of a block: near, or far with these classes present.
  enum : uint8_t { kNear = 0, kPlus = 1, kMinus = 2, kMixed = 3 };

  Vec row(int p) const { return load(in_ + size_t(p) * kLanes); }
  static void store_row(uint32_t* rows, int p, const Vec& v) { store(rows + size_t(p) * kLanes, v); }
  Vec cost_vec(int k) const { return broadcast(cost_[k]); }
  static Vec sign_of(const Vec& g) { return kSigned ? g & broadcast(kSignBit) : broadcast(0u); }

  // h of a row as a voxel with this sign sees it.
  static Vec site_value(const Vec& g, const Vec& sign) { return kSigned ? clamp_negative(g ^ sign) : g; }
  static Vec class_sign(int c) { return broadcast(c ? kSignBit : 0u); }

  // The smallest candidate so far, and what its site carries.
  struct Best {
    Vec value, carried;
  };
  // A candidate of a row further down yields to its equals, one further up does not.
  static void take(Best& best, const Vec& candidate, const Vec& carried) {
    const Vec smaller = min_unsigned(best.value, candidate);
    if (kCarry) best.carried = select(equal(smaller, best.value), best.carried, carried);
    best.value = smaller;
  }
  static void take_from_above(Best& best, const Vec& candidate, const Vec& carried) {
    const Vec smaller = min_unsigned(best.value, candidate);
    if (kCarry) best.carried = select(equal(smaller, candidate), carried, best.carried);
    best.value = smaller;
  }

  Vec carried_by(int j) const { return kCarry ? load(carried_ + size_t(j) * kLanes) : Vec(); }

  // The largest |p - j| that can improve on the value h, or a little more.
  int reach(uint32_t h) const {
    if (h >= Arithmetic::kNone) return n_;
    const float k = __builtin_sqrtf(Arithmetic::value(h) * inverse_weight_) * 1.00001f;
    return k < float(n_) ? int(k) + 1 : n_;  // n for NaN, too
  }

  // Whether a site this step away can beat the best, or tie with it from above.
  static Mask may_improve(const Vec& step, const Best& best) {
    return less(step, kCarry ? best.value + broadcast(1u) : best.value);
  }

  void store_best(int p, const Best& best, const Vec& sign) {
    store_row(out_, p, kSigned ? best.value | sign : best.value);
    if (kCarry) store_row(carried_out_, p, best.carried);
  }

  // Fact 1. False, and nothing stored, if the search is not over after `limit` steps.
  bool window(int p, int limit) {
    const Vec own = row(p), sign = sign_of(own);
    Best best = {own ^ sign, carried_by(p)};
    const int to_edge = p < n_ - 1 - p ? p : n_ - 1 - p;
    const int both_sides = to_edge < limit ? to_edge : limit;
    const uint32_t* at = in_ + size_t(p) * kLanes;
    bool done = false;
    int k = 1;
    for (; k <= both_sides; k++) {
      const Vec step = cost_vec(k);
      if (!any(may_improve(step, best))) {
        done = true;
        break;
      }
      const Vec below = load(at + size_t(k) * kLanes), above = load(at - size_t(k) * kLanes);
      if (kCarry) {
        take(best, Arithmetic::add(site_value(below, sign), step), carried_by(p + k));
        take_from_above(best, Arithmetic::add(site_value(above, sign), step), carried_by(p - k));
        continue;
      }
      const Vec site =
          kSigned ? clamp_negative(min_signed(below ^ sign, above ^ sign)) : min_unsigned(below, above);
      best.value = min_unsigned(best.value, Arithmetic::add(site, step));
    }
    for (; !done; k++) {
      const Vec step = cost_vec(k);
      const bool has_below = p + k < n_, has_above = p - k >= 0;
      if (!(has_below || has_above) || !any(may_improve(step, best))) break;
      if (k > limit) return false;
      if (has_below) take(best, Arithmetic::add(site_value(row(p + k), sign), step), carried_by(p + k));
      if (has_above) {
        take_from_above(best, Arithmetic::add(site_value(row(p - k), sign), step), carried_by(p - k));
      }
    }
    store_best(p, best, sign);
    return true;
  }

  // Fact 2: probes one row per block and finishes the near blocks. True if there are no others.
  bool settle_near_blocks() {
    bool all_near = true;
    for (int i = 0; i < blocks_; i++) {
      const int begin = i * kBlock, end = begin + kBlock < n_ ? begin + kBlock : n_;
      const int probe = begin + (kBlock / 2 < end - begin ? kBlock / 2 : end - begin - 1);
      if (!window(probe, kProbe)) {
        scratch_.kind[i] = kSigned ? classes_of_block(begin, end) : uint8_t(kPlus);
        all_near = false;
        continue;
      }
      scratch_.kind[i] = kNear;
      for (int p = begin; p < end; p++) {
        if (p != probe) window(p, n_);
      }
    }
    return all_near;
  }

  uint8_t classes_of_block(int begin, int end) const {
    Vec some = broadcast(0u), all = broadcast(~0u);
    for (int p = begin; p < end; p++) {
      some = some | row(p);
      all = all & row(p);
    }
    return uint8_t((sign_bits(all) != 0xffffu ? kPlus : 0) | (sign_bits(some) != 0 ? kMinus : 0));
  }

  // A lane without any site would keep every window open. In such a lane no row has a finite value, so three
  // rows rule most lines out.
  bool may_have_dead_lanes() const {
    const Vec magnitude = broadcast(~kSignBit), none = broadcast(Arithmetic::kNone);
    const Vec smallest =
        min_unsigned(min_unsigned(row(0) & magnitude, row(n_ / 2) & magnitude), row(n_ - 1) & magnitude);
    return any(equal(smallest, none));
  }

  // Returns the number of such lanes, a mask of them,
  // and what their voxels get.
  int find_dead_lanes(Mask& dead, Vec& value) const {
    const Vec sign_bit = broadcast(kSignBit);
    Vec nearest = broadcast(Arithmetic::kNone), some = broadcast(0u), all = broadcast(~0u);
    for (int p = 0; p < n_; p++) {
      const Vec g = row(p);
      nearest = min_unsigned(nearest, kSigned ? g & broadcast(~kSignBit) : g);
      some = some | g;
      all = all & g;
    }
    const Vec none = broadcast(Arithmetic::kNone);
    const Vec mixed = kSigned ? copy_sign_bit_everywhere(some ^ all) : broadcast(0u);
    dead = equal(nearest | mixed, none);
    value = kSigned ? none | (some & sign_bit) : none;
    return __builtin_popcount(sign_bits(select(dead, sign_bit, broadcast(0u))));
  }

  int landmark_row(int i) const { return i * kBlock < n_ ? i * kBlock : n_ - 1; }

  void settle_far_blocks() {
    for (int c = 0; c < (kSigned ? 2 : 1); c++) {
      int count = 0, *wanted = scratch_.wanted[c];
      for (int i = 0; i < blocks_; i++) {
        if (!(scratch_.kind[i] >> c & 1)) continue;
        if (count == 0 || wanted[count - 1] != i) wanted[count++] = i;
        wanted[count++] = i + 1;
      }
      if (count > 0) place_landmarks(c, wanted, count);
    }
    for (int i = 0; i < blocks_; i++) {
      if (scratch_.kind[i] != kNear) fill_block(i);
    }
  }

  // Fact 3: both ends first, then bisection; every landmark searches between its two neighbours' argmins.
  void place_landmarks(int c, const int* wanted, int count) {
    Landmark* marks = scratch_.landmarks[c];
    const Vec sign = class_sign(c);
    for (int t = 0; t < count; t++) {  // apart from the searches, so that these long latencies overlap
      Landmark& mark = marks[wanted[t]];
      mark.top = max_of_lanes(site_value(row(landmark_row(wanted[t])), sign));
      mark.reach = reach(mark.top);
    }
    place_landmark(c, wanted[0], nullptr, nullptr);
    place_landmark(c, wanted[count - 1], &marks[wanted[0]], nullptr);
    int span = 1;
    while (2 * span < count - 1) span *= 2;
    for (; span >= 1; span /= 2) {
      for (int middle = span; middle < count - 1; middle += 2 * span) {
        const int right = middle + span < count - 1 ? middle + span : count - 1;
        place_landmark(c, wanted[middle], &marks[wanted[middle - span]], &marks[wanted[right]]);
      }
    }
  }

  void place_landmark(int c, int i, const Landmark* left, const Landmark* right) {
    Landmark& mark = scratch_.landmarks[c][i];
    const int p = landmark_row(i);
    const Vec sign = class_sign(c);
    const int k = mark.top > 0 ? mark.reach : 0;
    int lo = left ? left->lo : 0, hi = right ? right->hi : n_ - 1;
    lo = lo > p - k ? lo : p - k;
    hi = hi < p + k ? hi : p + k;
    if (hi - lo <= kNarrow) {
      mark.first = broadcast(uint32_t(lo));
      mark.last = broadcast(uint32_t(hi));
      mark.lo = lo;
      mark.hi = hi;
      return;
    }
    Intervals split;
    split.count = 1;
    split.lo[0] = lo;
    split.hi[0] = hi;
    if (left && right && hi - lo >= kWide + 16) split_by_lanes(left->first, right->last, lo, hi, split);
    const Vec best = search(p, sign, split, mark);
    mark.top = max_of_lanes(best);
    if (!Arithmetic::kExact && Arithmetic::value(mark.top) * inverse_weight_ > 0x1p22f) {
      widen_by_rounding(p, sign, split, best, mark);
    }
    mark.lo = int(min_of_lanes(mark.first));
    mark.hi = int(max_of_lanes(mark.last));
  }

  // The lowest minimiser. Two accumulators, because compare and select depend on the step before; the bound
  // that they begin with, p's own value, must lose to it.
  Vec search(int p, const Vec& sign, const Intervals& split, Landmark& mark) const {
    const uint32_t* cost = cost_ - p;
    const Vec two = broadcast(2u);
    Vec best0 = site_value(row(p), sign) + broadcast(1u), best1 = best0, at0 = broadcast(uint32_t(p)),
        at1 = at0;
    const auto consider = [](const Vec& candidate, const Vec& index, Vec& best, Vec& at) {
      const Vec better = min_unsigned(candidate, best);
      at = select(equal(better, best), at, index);
      best = better;
    };
    for (int t = 0; t < split.count; t++) {
      int j = split.lo[t];
      Vec index0 = broadcast(uint32_t(j)), index1 = broadcast(uint32_t(j + 1));
      for (; j < split.hi[t]; j += 2) {
        consider(Arithmetic::add(site_value(row(j), sign), broadcast(cost[j])), index0, best0, at0);
        consider(Arithmetic::add(site_value(row(j + 1), sign), broadcast(cost[j + 1])), index1, best1, at1);
        index0 = index0 + two;
        index1 = index1 + two;
      }
      if (j == split.hi[t])
        consider(Arithmetic::add(site_value(row(j), sign), broadcast(cost[j])), index0, best0, at0);
    }
    const Vec best = min_unsigned(best0, best1);
    const Vec none = broadcast(~0u);
    mark.first = mark.last =
        min_unsigned(select(equal(best, best0), at0, none), select(equal(best, best1), at1, none));
    return best;
  }

  // The first and last index within rounding of the minimum.
  void widen_by_rounding(int p, const Vec& sign, const Intervals& split, const Vec& best,
                         Landmark& mark) const {
    const uint32_t* cost = cost_ - p;
    const Vec limit = multiply_float(best, broadcast(1.0f + 0x1p-20f));
    Vec first = broadcast(~0u), last_complement = broadcast(~0u);
    for (int t = 0; t < split.count; t++) {
      for (int j = split.lo[t]; j <= split.hi[t]; j++) {
        const Vec candidate = Arithmetic::add(site_value(row(j), sign), broadcast(cost[j]));
        const Mask worse = less(limit, candidate);
        first = min_unsigned(first, select(worse, first, broadcast(uint32_t(j))));
        last_complement =
            min_unsigned(last_complement, select(worse, last_complement, broadcast(~uint32_t(j))));
      }
    }
    mark.first = first;
    mark.last = last_complement ^ broadcast(~0u);
  }

  // A lane's interval is [first, last], cut to [lo, hi]. Keeps one interval unless several are much shorter.
  static void split_by_lanes(const Vec& first, const Vec& last, int lo, int hi, Intervals& result) {
    uint32_t from[kLanes], to[kLanes];
    store(from, first);
    store(to, last);
    Intervals split;
    split.count = split.total = 0;
    for (int lane = 0; lane < kLanes; lane++) {
      const int a = int(from[lane]) > lo ? int(from[lane]) : lo, b = int(to[lane]) < hi ? int(to[lane]) : hi;
      if (a > b) continue;
      int t = split.count - 1;
      while (t >= 0 && (a > split.hi[t] + 2 || b < split.lo[t] - 2)) t--;
      if (t >= 0) {
        if (a < split.lo[t]) split.lo[t] = a;
        if (b > split.hi[t]) split.hi[t] = b;
      } else {
        split.lo[split.count] = a;
        split.hi[split.count++] = b;
      }
    }
    for (int t = 0; t < split.count; t++) split.total += split.hi[t] - split.lo[t] + 1;
    if (split.count > 1 && 4 * split.total < 3 * (hi - lo)) result = split;
  }

  void fill_block(int i) {
    const int begin = i * kBlock, kind = scratch_.kind[i];
    int lo = n_, hi = -1;
    uint32_t top = 0;
    for (int c = 0; c < (kSigned ? 2 : 1); c++) {
      if (!(kind >> c & 1)) continue;
      const Landmark &left = scratch_.landmarks[c][i], &right = scratch_.landmarks[c][i + 1];
      if (left.lo < lo) lo = left.lo;
      if (right.hi > hi) hi = right.hi;
      const uint32_t nearer = left.top < right.top ? left.top : right.top;
      if (nearer > top) top = nearer;
    }
    const int k = reach(top) + kBlock;  // fact 2: the landmark's reach, and one for each row away from it
    if (lo < begin - k) lo = begin - k;
    if (hi > begin + kBlock - 1 + k) hi = begin + kBlock - 1 + k;
    Intervals split;
    split.count = 1;
    split.lo[0] = lo;
    split.hi[0] = hi;
    if (hi - lo >= kWide && kind != kMixed) {
      const Landmark* marks = scratch_.landmarks[kind == kMinus] + i;
      split_by_lanes(marks[0].first, marks[1].last, lo, hi, split);
    }
    // Rows past n in the last block are computed from whatever is there, and ignored.
    for (int r = 0; r < kBlock; r += kRows) {
      if (kind == kMixed) {
        fill_rows<false>(begin + r, split, broadcast(0u));
      } else {
        fill_rows<true>(begin + r, split, class_sign(kind == kMinus));
      }
    }
  }

  // The minimum over the intervals for kRows rows at once: every row of h is loaded once for all of them.
  template <bool kOneClass>
  void fill_rows(int p, const Intervals& split, const Vec& class_sign) {
    Best best[kRows];
    Vec sign[kRows];
    for (int r = 0; r < kRows; r++) {
      best[r] = {broadcast(Arithmetic::kNone), broadcast(0u)};
      sign[r] = kOneClass ? class_sign : sign_of(row(p + r));
    }
    for (int t = 0; t < split.count; t++) {
      const uint32_t* from = in_ + size_t(split.lo[t]) * kLanes;
      const uint32_t* cost = cost_ + (split.lo[t] - p);
      for (int j = split.lo[t]; j <= split.hi[t]; j++, from += kLanes, cost++) {
        const Vec g = load(from);
        const Vec shared = kOneClass ? site_value(g, class_sign) : g;
        const Vec carried = carried_by(j);
        for (int r = 0; r < kRows; r++) {
          const Vec site = kOneClass ? shared : site_value(g, sign[r]);
          take(best[r], Arithmetic::add(site, broadcast(cost[-r])), carried);
        }
      }
    }
    for (int r = 0; r < kRows; r++) store_best(p + r, best[r], sign[r]);
  }

  const uint32_t* cost_;
  float inverse_weight_;
  LineScratch scratch_;
  uint32_t* in_;
  uint32_t* out_;
  const uint32_t* carried_;
  uint32_t* carried_out_;
  int n_, blocks_;
};

}  // namespace dtk::cpu::DTK_ISA
