// Squared distances in the two arithmetics of the transform.
//
// A Value is what tiles hold for one voxel: the squared distance to the nearest voxel of the other class
// within the axes already done. In a signed transform the class is its sign (foreground is negative, as
// in the result d_out - d_in); in an unsigned one the background is 0. "No such voxel" is kNone. A Cost
// is a magnitude that candidates are compared in.
//
//   int32_t  isotropic spacing: squared voxel counts, exact. kNone is 2^31 - 1, costs are uint32_t, so
//            kNone + k^2 with k < 32768 does not wrap.
//   float    everything else: a site h at k steps costs h + w * k^2 with w = float(spacing^2); the product
//            is rounded before the sum (--fmad=false), as on the CPU. kNone is infinity.
#pragma once
#include "config.h"

namespace dtk {

template <typename T>
DTK_INLINE T smaller(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
DTK_INLINE T larger(T a, T b) {
  return a < b ? b : a;
}

// The square root's fast path leaves 0 to a slow one, which a warp would take for one voxel of background.
__device__ inline float root(float square) {
  const float d = __fsqrt_rn(square == 0.0f ? 1.0f : square);
  return square == 0.0f ? 0.0f : d;
}

// The square root of an integer below 2^32, correctly rounded: what nvcc makes of __fsqrt_rn for numbers in
// the middle of their range, without the question whether they are there.
__device__ inline float root_of_integer(float square) {
  const float inverse = inverse_root(fmaxf(square, 0.25f));  // 0 gives 0
  const float d = square * inverse;
  return __fmaf_rn(__fmaf_rn(-d, d, square), 0.5f * inverse, d);
}

template <typename Value>
struct Squares;

template <>
struct Squares<int32_t> {
  using Cost = uint32_t;

  __device__ explicit Squares(float) {}

  __device__ static int32_t none() { return 0x7fffffff; }
  __device__ static bool negative(int32_t v) { return v < 0; }
  __device__ static Cost magnitude(int32_t v) { return Cost(v < 0 ? -v : v); }
  __device__ static int32_t with_sign(Cost cost, int32_t sign) { return sign * int32_t(cost); }

  // Cost of k steps along this axis; |k| < 32768.
  __device__ Cost steps(int32_t k) const { return Cost(k * k); }

  // What a site of value g offers to a voxel of class `sign`: a voxel of the other class is itself a
  // site at distance 0 (design: one sweep for both signs).
  template <bool kSigned>
  __device__ static Cost offer(int32_t g, int32_t sign) {
    return kSigned ? Cost(larger(g * sign, 0)) : Cost(g);
  }

  // Sites that can still beat `own` lie at most this far away: k^2 <= own - 1. The rounded root never
  // falls below the integer root r: rounding is monotone, float(r^2) >= r^2 (1 - 2^-24), so its root is
  // at least r (1 - 2^-25), within half a unit of r, and rounds to r or more.
  __device__ int reach(Cost own, int length) const {
    return own == Cost(none()) ? length : own == 0 ? 0 : int(root_of_integer(float(own - 1)));
  }

  // First position where site v, right of u, is strictly the cheaper one:
  //   hv + (p - v)^2 < hu + (p - u)^2  <=>  2 p (v - u) > hv - hu + v^2 - u^2.
  __device__ int overtakes(int u, Cost hu, int v, Cost hv, int before, int after) const {
    const int64_t difference = int64_t(hv) - int64_t(hu) + int64_t(v - u) * (v + u);
    const int64_t twice = 2 * (v - u);
    int64_t quotient = difference / twice;
    if (quotient * twice > difference) --quotient;  // floor
    return int(larger(smaller(quotient + 1, int64_t(after)), int64_t(before)));
  }

  // The result in the unit of the spacing; `scale` is the spacing, or its square.
  __device__ static float finish(Cost cost, bool squared, float scale) {
    const float d2 = float(cost);
    const float d = (squared ? d2 : root_of_integer(d2)) * scale;
    return cost == Cost(none()) ? __int_as_float(0x7f800000) : d;
  }

  // The square in the unit of the spacing, whose own square is `unit`.
  __device__ static float square(Cost cost, float unit) { return float(cost) * unit; }
};

template <>
struct Squares<float> {
  using Cost = float;

  float weight;
  float reach_scale;  // 1 / sqrt(weight), widened by far more than the rounding of what it bounds

  // The root stands in the body: nvcc leaves initialisers of a specialisation to the host compiler too.
  __device__ explicit Squares(float w) : weight(w), reach_scale(0.0f) {
    reach_scale = 1.00001f / __fsqrt_rn(w);
  }

  __device__ static float none() { return __int_as_float(0x7f800000); }
  __device__ static bool negative(float v) { return __float_as_int(v) < 0; }
  __device__ static Cost magnitude(float v) { return fabsf(v); }
  __device__ static float with_sign(Cost cost, float sign) { return sign * cost; }

  // float(k)^2 is the correctly rounded square of the integer k, the same number as float(k * k).
  __device__ Cost steps(float k) const { return weight * (k * k); }

  template <bool kSigned>
  __device__ static Cost offer(float g, float sign) {
    return kSigned ? fmaxf(g * sign, 0.0f) : g;
  }

  // fminf also turns the NaN of 0 * infinity (a weight that underflowed) into the whole line.
  __device__ int reach(Cost own, int length) const {
    return int(fminf(__fsqrt_rn(own) * reach_scale, float(length)));
  }

  // As above with weights, in double: a tie decided wrongly costs a relative 2^-52. The clamps turn the
  // infinities and NaNs of weight 0 into "never", "always" and "always".
  __device__ int overtakes(int u, Cost hu, int v, Cost hv, int before, int after) const {
    const double w = weight;
    const double difference = double(hv) - double(hu) + w * (double(v - u) * double(v + u));
    const double first = floor(difference / (2.0 * w * double(v - u))) + 1.0;
    return int(fmin(fmax(first, double(before)), double(after)));
  }

  __device__ static float finish(Cost cost, bool squared, float) { return squared ? cost : root(cost); }
  __device__ static float square(Cost cost, float) { return cost; }
};

}  // namespace dtk
