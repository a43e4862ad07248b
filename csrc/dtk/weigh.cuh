// The other end of a transform: instead of a distance a voxel writes what its distance makes of a prediction
// p, the gradient of a sum over its image, and adds its term to the sum (dtkernels/distance_sums.py):
//
//   kBoundary  p z, gradient z: the signed distance, inside `shift` less deep
//   others     t (p - g), gradient 2 t, with t = (D_P + D_G) (p - g): D is the distance, or its square;
//              0 where the image has no boundary, and with kInside outside of the mask
//
// The transform is the target's (kBoundary, kOneSided), or the prediction's; then the signed map of the
// target was written before, or the kernel solves both (packed.cuh), and its sign is g, unless g is a number
// of its own.
//
// Bytes per voxel of global memory, beside the transform's: p (4), and the target's map (4) or its run code;
// the map that the transform would have written is the gradient.
//
// The sum is the same in every run: a thread adds up its voxels, a block its threads, in an order that shape
// and launch plan decide, and leaves one number for each piece of an image, whichever block has it.
#pragma once
#include "epilogue.cuh"
#include "measure.h"

namespace dtk {

// Images whose voxels lie one behind the other.
struct Planes {
  const void* data;
  int64_t batch_stride, class_stride;  // elements
};

struct Weighing {
  Planes prediction;  // float32
  Planes values;      // of g; null where g is the target's class
  const void* other;  // of the target: its signed map, or run codes; null where the transform is the target's
  float* partials;    // for every piece of an image
  int64_t classes;    // images of a sample
  int64_t voxels;     // of an image
  int32_t values_dtype;
  int32_t measure;
  float shift;
  int32_t unused;
};

// What a kernel takes that ends in this way.
template <typename Params>
struct Weighed : Params {
  Weighing weighing;
};

__device__ inline float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// Used like an Epilogue, for voxels of one image.
template <typename Value>
class Weigher {
  using S = Squares<Value>;
  using Cost = typename S::Cost;

 public:
  template <typename Params>
  __device__ Weigher(const Weighed<Params>& params, int64_t image)
      : weighing_(params.weighing),
        prediction_(static_cast<const float*>(params.weighing.prediction.data) +
                    from_map(params.weighing.prediction, image)),
        values_from_map_(from_map(params.weighing.values, image)),
        gradient_(static_cast<float*>(params.at.target)),
        squared_(params.squared != 0),
        scale_(params.scale) {}

  static constexpr bool kPlain = false;  // the cost may be that of no site
  static constexpr bool kPairs = false;

  // Element `at` of the maps.
  __device__ void write(int64_t at, Cost cost, bool negative) {
    const float d = distance(cost);
    if (weighing_.measure == kBoundary) {
      const float p = prediction_[at], z = !is_finite(d) ? 0.0f : negative ? weighing_.shift - d : d;
      gradient_[at] = z;
      sum_ += p * z;
      return;
    }
    bool inside = negative;
    float w = weight(d, inside);
    if (weighing_.other != nullptr) {
      const float other = static_cast<const float*>(weighing_.other)[at];
      inside = __float_as_int(other) < 0;
      w += weight(fabsf(other), inside);
    }
    add(at, w, inside);
  }

  // The same, with the target's distance and class at hand.
  __device__ void write(int64_t at, Cost cost, bool negative, Cost target, bool inside) {
    add(at, weight(distance(cost), negative) + weight(distance(target), inside), inside);
  }

  __device__ static bool has_extrema() { return false; }
  __device__ void hand_over(int64_t) {}

  // All threads of the block, when they have written piece `piece`; a barrier must come before the next one.
  __device__ void reduce(int64_t piece) {
    DTK_SHARED(float, sums, 32);
    const float own = warp_sum(sum_);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x < 32) {
      const float all = warp_sum(threadIdx.x < blockDim.x / 32 ? sums[threadIdx.x] : 0.0f);
      if (threadIdx.x == 0) weighing_.partials[piece] = all;
    }
  }

 private:
  // From an element of the contiguous maps to that of the planes, for voxels of `image`.
  __device__ int64_t from_map(const Planes& planes, int64_t image) const {
    return image / weighing_.classes * planes.batch_stride + image % weighing_.classes * planes.class_stride -
           image * weighing_.voxels;
  }

  __device__ void add(int64_t at, float w, bool inside) {
    float g = inside ? 1.0f : 0.0f;
    if (weighing_.values.data != nullptr)
      g = read_number(weighing_.values.data, weighing_.values_dtype, at + values_from_map_);
    const float error = g - prediction_[at], t = w * error;
    gradient_[at] = -2.0f * t;
    sum_ += error * t;
  }

  __device__ float distance(Cost cost) const { return S::finish(cost, squared_, scale_); }
  __device__ static bool is_finite(float d) { return d < __int_as_float(0x7f800000); }
  __device__ float weight(float d, bool inside) const {
    return !is_finite(d) || (weighing_.measure == kInside && !inside) ? 0.0f : d;
  }

  const Weighing& weighing_;
  const float* prediction_;
  int64_t values_from_map_;
  float* gradient_;
  bool squared_;
  float scale_;
  float sum_ = 0.0f;
};

// A slice that a block holds in shared memory; as in epilogue.cuh.
template <typename Value, bool kSigned, typename Params, typename Block>
__device__ void write_slice(const Weighed<Params>& params, const Block& block, uint32_t slice, bool) {
  Weigher<Value> end(params, slice / uint32_t(params.extent[0]));
  block.store(slice, end);
  end.reduce(slice);
}

}  // namespace dtk
