// Squared distances in two arithmetics. The line solver is written once over either.
//
// A line holds squared distances h(j) >= 0, and asks for min over j of h(j) + w (p - j)^2. Both
// arithmetics tabulate the second term per axis as cost[k].
#pragma once
#include "simd.h"

namespace dtk::cpu::DTK_ISA {

// Equal spacing on all axes: count voxels. Exact, since every sum fits: h <= 0x7fffffff by clamping and
// k^2 <= 2^30 for k <= 32,767, so a candidate is below 2^32. True squared distances stay below
// 0x7fffffff for two sides of 32,768 (2,147,352,578), and for any volume that memory can hold.
struct ExactSquares {
  static constexpr bool kExact = true;
  static constexpr uint32_t kNone = 0x7fffffffu;  // no site found; loses against every real candidate
  static Vec add(const Vec& h, const Vec& cost) { return h + cost; }
  static uint32_t cost(float, int k) { return uint32_t(k) * uint32_t(k); }
  static Vec square(const Vec& k, const Vec&) { return k * k; }
  static float value(uint32_t h) { return float(h); }
  static Vec to_float(const Vec& h) {
    return select(equal(h, broadcast(kNone)), broadcast(0x7f800000u), DTK_ISA::to_float(h));
  }
};

// Unequal spacing: float32, with weight w = float(spacing^2) and cost = fl(w * fl(k^2)).
// Error of the result, in units u = 2^-24 relative: w and k^2 round once each, the product once (3 u), and
// each of the two later axes adds once (2 u); every term is non-negative, so relative errors do not
// grow in sums: at most 5 u, which is 5 half-ulps of the squared distance, plus terms of order u^2. That the
// search loses nothing on top is argued in line_solver.h.
struct RoundedSquares {
  static constexpr bool kExact = false;
  static constexpr uint32_t kNone = 0x7f800000u;  // infinity
  static Vec add(const Vec& h, const Vec& cost) { return add_float(h, cost); }
  static uint32_t cost(float weight, int k) {
    const float c = weight * float(int64_t(k) * k);
    uint32_t bits;
    memcpy(&bits, &c, 4);
    return bits;
  }
  static Vec square(const Vec& k, const Vec& weight) {
    return multiply_float(weight, DTK_ISA::to_float(k * k));
  }
  static float value(uint32_t h) {
    float x;
    memcpy(&x, &h, 4);
    return x;
  }
  static Vec to_float(const Vec& h) { return h; }
};

}  // namespace dtk::cpu::DTK_ISA
