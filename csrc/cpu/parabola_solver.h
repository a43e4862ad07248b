// One axis of an envelope: n rows of lanes,
//
//   E(p) = min over j of f(j) + w (p - j)^2,   arg(p) = the lowest j that attains it,
//
// for any f: negative, infinite (+inf is no site), a line without any site. There are no runs of a class and
// no Lipschitz bound as for distances of masks, but two facts remain. A j that beats j = p has
// w (p - j)^2 <= f(p) - min f: a window. And minimisers are monotone in p, since for j < b and p' > p
//
//   g_j(p') - g_b(p') = g_j(p) - g_b(p) + 2 w (p' - p) (b - j),   g_j(p) = f(j) + w (p - j)^2.
//
// So every 8th row is a landmark, found by bisection between its neighbours, and the rows between search from
// the first minimiser of the landmark above to the last of the one below, within their window.
//
// Rounding. The result is that of a search over all j in T, bit for bit: E is the least computed sum, arg the
// lowest j that attains it. Let u be the unit roundoff, m = min f and S = |m| + 2 w (n - 1)^2. No j that wins
// anywhere has f(j) or a sum above S, so each computed sum is within u S + 3 u S of its g. A landmark at p
// reports the first and last j whose sum is at most slack = 32 u S above its least. For a j to the left of
// these to win at p' > p, against the minimiser b of p, four such errors must make up for a deficit of more
// than 32 u S that only grows with p' - p: they cannot. The same slack widens the window.
//
// Where S is not finite, everything is searched: f of -inf, or sums at the end of the range of T.
#pragma once
#include "float_lanes.h"

namespace dtk::cpu::DTK_ISA {

// An axis: cost[k] = w k^2 for |k| <= n + kCostMargin.
template <class T>
struct ParabolaAxis {
  const T* cost;
  T weight;
};

template <class T>
class ParabolaSolver {
 public:
  struct Landmark {
    int lo, hi;  // the extremes over lanes of the first and the last minimiser
  };
  using V = Lanes<T>;
  static constexpr int kBlock = 8;
  static constexpr T kNoSite = T(__builtin_inf());

  static constexpr int landmarks_for(int n) { return n / kBlock + 2; }

  ParabolaSolver(const ParabolaAxis<T>& axis, Landmark* landmarks)
      : cost_(axis.cost), weight_(axis.weight), landmarks_(landmarks) {}

  // Rows of lanes; `out` and `arg` have room for n rounded up to a multiple of 8. `arg` may be null; -1 is
  // the position of a lane without a site. `in` holds no NaN.
  void solve(const T* in, int n, T* out, T* arg) {
    in_ = in;
    n_ = n;
    out_ = out;
    arg_ = arg;
    if (arg) {
      solve_blocks<true>();
    } else {
      solve_blocks<false>();
    }
  }

 private:
  static constexpr int kNear = 3;    // windows of this size are searched row by row
  static constexpr int kNarrow = 8;  // landmarks do not search intervals of this length
  static constexpr int kRows = kParts == 1 ? 8 : kParts == 2 ? 4 : 2;

  V row(int p) const { return V::load(in_ + size_t(p) * V::kCount); }

  // How far from a row a better j can lie, `excess` being f(p) - min f + slack of the worst lane.
  int reach(T excess) const {
    const double k = __builtin_sqrt(double(excess) / double(weight_)) * 1.00001;
    return k < double(n_) ? int(k) : n_;  // n for NaN, too
  }
  T excess(const V& highest) const {
    V top = highest - base_;
    for (int i = 0; i < kParts; i++) top.part[i] = alive_.part[i] > T(0) ? top.part[i] : alive_.part[i];
    return top.largest();
  }

  template <bool kArg>
  void solve_blocks() {
    const int blocks = (n_ + kBlock - 1) / kBlock;
    V least = row(0);
    for (int p = 1; p < n_; p++) least.lower(row(p));
    const bool bounded = prepare(least);
    bool placed = false;
    for (int i = 0; i < blocks; i++) {
      const int begin = i * kBlock, end = begin + kBlock < n_ ? begin + kBlock : n_;
      V top = row(begin);
      for (int p = begin + 1; p < end; p++) top.raise(row(p));
      const int k = bounded ? reach(excess(top)) : n_;
      if (k <= kNear) {
        for (int p = begin; p < end; p++) fill_row<kArg>(p, k);
        continue;
      }
      int lo = 0, hi = n_ - 1;
      if (bounded) {
        if (!placed) place_landmarks(blocks);
        placed = true;
        lo = landmarks_[i].lo;
        hi = landmarks_[i + 1].hi;
      }
      lo = lo > begin - k ? lo : begin - k;
      hi = hi < end - 1 + k ? hi : end - 1 + k;
      for (int p = begin; p < end; p += kRows) fill_rows<kArg>(p, lo, hi);
    }
  }

  // Per lane: slack, whether it has a site, and what the excess counts from. False where nothing bounds S.
  bool prepare(const V& least) {
    const T unit = sizeof(T) == 4 ? T(0x1p-24) : T(0x1p-53);
    const T spread = T(2) * weight_ * T(n_ - 1) * T(n_ - 1);
    bool bounded = true;
    for (int i = 0; i < V::kCount; i++) {
      const T m = least.lane(i);
      const bool alive = m < kNoSite;
      const T slack = T(32) * unit * ((m < T(0) ? -m : m) + spread);
      bounded = bounded && (!alive || slack < kNoSite);
      T* base = reinterpret_cast<T*>(&base_);
      T* lanes = reinterpret_cast<T*>(&alive_);
      T* extra = reinterpret_cast<T*>(&slack_);
      base[i] = alive ? m - slack : T(0);
      lanes[i] = alive ? T(1) : T(0);
      extra[i] = alive ? slack : -kNoSite;
    }
    return bounded;
  }

  template <bool kArg>
  void fill_row(int p, int k) {
    const int lo = p - k > 0 ? p - k : 0, hi = p + k < n_ - 1 ? p + k : n_ - 1;
    V best = V::broadcast(kNoSite), at = V::broadcast(T(-1));
    for (int j = lo; j <= hi; j++) {
      if (kArg) {
        best.lower(row(j) + cost_[j - p], at, T(j));
      } else {
        best.lower(row(j) + cost_[j - p]);
      }
    }
    best.store(out_ + size_t(p) * V::kCount);
    if (kArg) at.store(arg_ + size_t(p) * V::kCount);
  }

  // kRows rows at once. Rows past n in the last block are ignored.
  template <bool kArg>
  void fill_rows(int p, int lo, int hi) {
    V best[kRows], at[kRows];
    for (int r = 0; r < kRows; r++) {
      best[r] = V::broadcast(kNoSite);
      at[r] = V::broadcast(T(-1));
    }
    lo = lo < 0 ? 0 : lo;
    hi = hi < n_ ? hi : n_ - 1;
    const T* from = in_ + size_t(lo) * V::kCount;
    for (int j = lo; j <= hi; j++, from += V::kCount) {
      const V f = V::load(from);
      for (int r = 0; r < kRows; r++) {
        if (kArg) {
          best[r].lower(f + cost_[j - p - r], at[r], T(j));
        } else {
          best[r].lower(f + cost_[j - p - r]);
        }
      }
    }
    for (int r = 0; r < kRows; r++) {
      best[r].store(out_ + size_t(p + r) * V::kCount);
      if (kArg) at[r].store(arg_ + size_t(p + r) * V::kCount);
    }
  }

  void place_landmarks(int last) {
    place_landmark(0, last, 0, n_ - 1);
    place_landmark(last, last, landmarks_[0].lo, n_ - 1);
    int span = 1;
    while (2 * span < last) span *= 2;
    for (; span >= 1; span /= 2) {
      for (int middle = span; middle < last; middle += 2 * span) {
        const int right = middle + span < last ? middle + span : last;
        place_landmark(middle, last, landmarks_[middle - span].lo, landmarks_[right].hi);
      }
    }
  }

  void place_landmark(int i, int last, int lo, int hi) {
    const int p = i < last ? i * kBlock : n_ - 1, k = reach(excess(row(p)));
    lo = lo > p - k ? lo : p - k;
    hi = hi < p + k ? hi : p + k;
    if (hi - lo > kNarrow) {
      const T* cost = cost_ - p;
      V best = V::broadcast(kNoSite), other = best;
      int j = lo;
      for (; j < hi; j += 2) {
        best.lower(row(j) + cost[j]);
        other.lower(row(j + 1) + cost[j + 1]);
      }
      if (j == hi) best.lower(row(j) + cost[j]);
      best.lower(other);
      const V limit = best + slack_;  // of a lane without a site: NaN, which nothing is up to
      while (lo < hi && !(row(lo) + cost[lo]).any_up_to(limit)) lo++;
      while (lo < hi && !(row(hi) + cost[hi]).any_up_to(limit)) hi--;
    }
    landmarks_[i] = {lo, hi};
  }

  const T* cost_;
  T weight_;
  Landmark* landmarks_;
  const T* in_;
  T *out_, *arg_;
  int n_;
  V base_, alive_, slack_;
};

}  // namespace dtk::cpu::DTK_ISA
