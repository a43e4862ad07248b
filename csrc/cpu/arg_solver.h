// One axis of the feature transform where positions do not fit beside the squares: n rows of 16 lines,
//
//   D(p) = min over j of h(j) + w (p - j)^2,   arg(p) = the lowest j that attains it.
//
// The facts are line_solver.h's: a window |p - j| <= sqrt(h(p) / w) holds every j that does not lose to j =
// p, and minimisers are monotone in p: all minimisers of p' > p are right of, or equal to, all of p. So every
// 16th row is a landmark, found by bisection between its neighbours, and the rows between search from the
// first minimiser of the landmark above to the last of the one below. First and last, not any: a landmark's
// row takes part in the search itself, and must see its ties on the left.
//
// Rounding. With RoundedSquares a tie is an equal computed square. A landmark reports the first and last j
// whose computed square is within a factor 1 + 32u (u = 2^-24) of its minimum C. A j outside these, on the
// left of the minimiser b, is worse than b by more than 32u C - 6.2u C at p, ideally, and by 2w per row more
// at every p' > p. There it is as good as b within rounding only if 25u C + 2w (p' - p) < 6.2u C(p', b), but
// C(p', b) <= 2C + 2w (p' - p)^2, and p' - p <= 2^15: never. So no computed tie is excluded either, and the
// result is that of a search over all j, bit for bit.
#pragma once
#include "arithmetic.h"
#include "passes.h"

namespace dtk::cpu::DTK_ISA {

template <class Arithmetic>
class ArgSolver {
 public:
  static constexpr int kBlock = 16;
  struct Landmark {
    int lo, hi;  // the extremes over lanes of the first and the last minimiser; lo > hi: no lane has a site
  };

  // `landmarks` has room for n / 16 + 2.
  ArgSolver(const AxisCost& axis, Landmark* landmarks)
      : cost_(axis.cost), inverse_weight_(axis.inverse_weight), landmarks_(landmarks) {}

  // Rows of 16 lanes; `out` and `arg` have room for n rounded up to a multiple of 16. A lane without a site
  // gets kNone, and any position.
  void solve(const uint32_t* in, int n, uint32_t* out, uint32_t* arg) {
    in_ = in;
    n_ = n;
    out_ = out;
    arg_ = arg;
    const int blocks = (n + kBlock - 1) / kBlock;
    bool placed = false;
    for (int i = 0; i < blocks; i++) {
      const int begin = i * kBlock, end = begin + kBlock < n ? begin + kBlock : n;
      Vec top = broadcast(0u);
      for (int p = begin; p < end; p++) top = max_unsigned(top, row(p));
      const int k = reach(max_of_lanes(top));
      int lo = 0, hi = n - 1;
      if (k > kNear) {
        if (!placed) place_landmarks(blocks);
        placed = true;
        lo = landmarks_[i].lo;
        hi = landmarks_[i + 1].hi;
      }
      lo = lo > begin - k ? lo : begin - k;
      hi = hi < end - 1 + k ? hi : end - 1 + k;
      for (int p = begin; p < end; p += kRows) fill_rows(p, lo, hi);
    }
  }

 private:
  static constexpr int kNear = 4;
  static constexpr int kNarrow = 8;  // landmarks do not search intervals of this length
  static constexpr int kRows = kParts == 1 ? 8 : 4;

  static Vec max_unsigned(const Vec& a, const Vec& b) {
    const Vec ones = broadcast(~0u);
    return min_unsigned(a ^ ones, b ^ ones) ^ ones;
  }
  Vec row(int p) const { return load(in_ + size_t(p) * kLanes); }
  int reach(uint32_t h) const {
    if (h >= Arithmetic::kNone) return n_;
    const float k = __builtin_sqrtf(Arithmetic::value(h) * inverse_weight_) * 1.00001f;
    return k < float(n_) ? int(k) + 1 : n_;  // n for NaN, too
  }

  // Minimum and lowest minimiser for kRows rows at once. Rows past n in the last block are ignored.
  void fill_rows(int p, int lo, int hi) {
    Vec best[kRows], at[kRows];
    for (int r = 0; r < kRows; r++) {
      best[r] = broadcast(Arithmetic::kNone);
      at[r] = broadcast(0u);
    }
    const uint32_t* from = in_ + size_t(lo < 0 ? 0 : lo) * kLanes;
    lo = lo < 0 ? 0 : lo;
    hi = hi < n_ ? hi : n_ - 1;
    for (int j = lo; j <= hi; j++, from += kLanes) {
      const Vec h = load(from), index = broadcast(uint32_t(j));
      for (int r = 0; r < kRows; r++) {
        const Vec candidate = Arithmetic::add(h, broadcast(cost_[j - p - r]));
        at[r] = select(less(candidate, best[r]), index, at[r]);
        best[r] = min_unsigned(candidate, best[r]);
      }
    }
    for (int r = 0; r < kRows; r++) {
      store(out_ + size_t(p + r) * kLanes, best[r]);
      store(arg_ + size_t(p + r) * kLanes, at[r]);
    }
  }

  int landmark_row(int i) const { return i * kBlock < n_ ? i * kBlock : n_ - 1; }

  void place_landmarks(int last) {
    place_landmark(0, 0, n_ - 1);
    place_landmark(last, landmarks_[0].lo, n_ - 1);
    int span = 1;
    while (2 * span < last) span *= 2;
    for (; span >= 1; span /= 2) {
      for (int middle = span; middle < last; middle += 2 * span) {
        const int right = middle + span < last ? middle + span : last;
        place_landmark(middle, landmarks_[middle - span].lo, landmarks_[right].hi);
      }
    }
  }

  void place_landmark(int i, int lo, int hi) {
    Landmark& mark = landmarks_[i];
    const int p = landmark_row(i), k = reach(max_of_lanes(row(p)));
    lo = lo > p - k ? lo : p - k;
    hi = hi < p + k ? hi : p + k;
    mark = {lo, hi};
    if (hi - lo <= kNarrow) return;
    const uint32_t* cost = cost_ - p;
    Vec best = broadcast(Arithmetic::kNone);
    for (int j = lo; j <= hi; j++) {
      best = min_unsigned(best, Arithmetic::add(row(j), broadcast(cost[j])));
    }
    // 64 steps of the last place are at least a factor 1 + 32u. A lane without a site constrains nothing.
    const Vec limit = Arithmetic::kExact ? best : best + broadcast(64u);
    const Mask none = equal(best, broadcast(Arithmetic::kNone));
    Vec first = broadcast(~0u), last_complement = broadcast(~0u);
    for (int j = lo; j <= hi; j++) {
      const Mask worse = less(limit, Arithmetic::add(row(j), broadcast(cost[j])));
      first = min_unsigned(first, select(worse, broadcast(~0u), broadcast(uint32_t(j))));
      last_complement = min_unsigned(last_complement, select(worse, broadcast(~0u), broadcast(~uint32_t(j))));
    }
    const Vec ones = broadcast(~0u);
    first = select(none, ones, first);
    last_complement = select(none, ones, last_complement);
    const uint32_t lowest = min_of_lanes(first);
    if (lowest == ~0u) return;  // no lane has a site in reach, hence none anywhere
    mark = {int(lowest), int(~min_of_lanes(last_complement))};
  }

  const uint32_t* cost_;
  float inverse_weight_;
  Landmark* landmarks_;
  const uint32_t* in_;
  uint32_t *out_, *arg_;
  int n_;
};

}  // namespace dtk::cpu::DTK_ISA
