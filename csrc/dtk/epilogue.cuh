// The end of a transform, for every kernel that writes distances: from the squared distance of a voxel to its
// square root, spacing, sign and element type, and the largest squares of each image on the way.
//
// kIsPlain: the caller wants float32 and no extrema, as nearly every one does; the rest is decided at run
// time. Where the caller wants a map by a formula of a voxel's own distance, a Mapper is the end instead: the
// map costs no bytes more than the distance.
//
// Extrema: for each image the largest finite squared distances of its foreground and of its background (0 in
// an unsigned transform), taken by maximum into what the caller zeroed. Floats that are not negative compare
// like their bits, so the order in which warps arrive does not show.
#pragma once
#include "evaluate.cuh"
#include "operands.cuh"
#include "outputs.h"
#include "squares.cuh"

namespace dtk {

__device__ inline uint32_t warp_or(uint32_t x) {
#if defined(DTK_EMULATOR) || __CUDA_ARCH__ >= 800
  return __reduce_or_sync(0xffffffffu, x);
#else
  for (int step = 16; step > 0; step /= 2) x |= __shfl_xor_sync(0xffffffffu, x, step);
  return x;
#endif
}

__device__ inline uint32_t warp_max(uint32_t x) {
#if defined(DTK_EMULATOR) || __CUDA_ARCH__ >= 800
  return __reduce_max_sync(0xffffffffu, x);
#else
  for (int step = 16; step > 0; step /= 2) x = larger(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
#endif
}

template <typename Value, bool kSigned, bool kIsPlain>
class Epilogue {
  using S = Squares<Value>;
  using Cost = typename S::Cost;

 public:
  static constexpr bool kPlain = kIsPlain;  // no cost is that of no site, and the border is open
  static constexpr bool kPairs = true;      // value() is all that a voxel takes, where plain() says so

  // `plain`: the result is float32, no cost is that of no site, and the border is open.
  template <typename Params>
  __device__ explicit Epilogue(const Params& params, bool plain = kIsPlain)
      : out_(params.at.target),
        extrema_(kPlain ? nullptr : static_cast<float*>(params.at.second)),
        dtype_(params.out_dtype),
        squared_(params.squared != 0),
        plain_(plain),
        scale_(params.scale),
        unit_(params.weight[0]) {}

  __device__ bool plain() const { return kPlain || plain_; }

  // `bits`: foreground of a signed transform where the highest one is set.
  __device__ float value(Cost cost, uint32_t bits) {
    const float d = S::finish(cost, squared_, scale_);
    if (!kPlain) note(cost, kSigned && int32_t(bits) < 0);
    return kSigned ? bits_to_float(float_to_bits(d) | (bits & 0x80000000u)) : d;
  }

  // Element `at` of the output; `negative`: foreground of a signed transform. In an unsigned one it is
  // unused.
  __device__ void write(int64_t at, Cost cost, bool negative) {
    const float d = S::finish(cost, squared_, scale_);
    const float result = kSigned && negative ? -d : d;
    if (kPlain) {
      static_cast<float*>(out_)[at] = result;
      return;
    }
    write_output(out_, dtype_, at, result);
    if (extrema_ != nullptr && cost != Cost(S::none())) note(cost, negative);
  }

  __device__ bool has_extrema() const { return !kPlain && extrema_ != nullptr; }

  // The extrema of what this thread has written since the last time, all of it of `image`.
  __device__ void hand_over(int64_t image) {
    give(image, bits_of_square(inside_), bits_of_square(outside_));
    inside_ = outside_ = 0;
  }

  // The same by whole warps, which combine theirs first.
  __device__ void reduce(int64_t image) {
    if (!has_extrema()) return;
    if (!__all_sync(0xffffffffu, image == __shfl_sync(0xffffffffu, image, 0))) {
      hand_over(image);
      return;
    }
    const uint32_t inside = warp_max(bits_of_square(inside_)), outside = warp_max(bits_of_square(outside_));
    if (threadIdx.x % 32 == 0) give(image, inside, outside);
    inside_ = outside_ = 0;
  }

 private:
  __device__ void note(Cost cost, bool negative) {
    if (!kSigned || negative) {
      inside_ = larger(inside_, cost);
    } else {
      outside_ = larger(outside_, cost);
    }
  }

  // 0 for a square beyond float32.
  __device__ uint32_t bits_of_square(Cost cost) const {
    const uint32_t bits = float_to_bits(S::square(cost, unit_));
    return bits < 0x7f800000u ? bits : 0;
  }

  __device__ void give(int64_t image, uint32_t inside, uint32_t outside) const {
    uint32_t* to = reinterpret_cast<uint32_t*>(extrema_) + 2 * image;
    if (inside != 0) atomicMax(to, inside);
    if (outside != 0) atomicMax(to + 1, outside);
  }

  void* out_;
  float* extrema_;
  int32_t dtype_;
  bool squared_, plain_;
  float scale_, unit_;
  Cost inside_ = 0, outside_ = 0;
};

// Used like an Epilogue, for voxels of one image.
template <typename Value, bool kSigned>
class Mapper {
  using S = Squares<Value>;
  using Cost = typename S::Cost;

 public:
  static constexpr bool kPlain = false;
  static constexpr bool kPairs = true;

  // `row`: of the image's spacing, or null; `plain`: no cost is that of no site, and the border is open.
  template <typename Params>
  __device__ Mapper(const Params& params, const double* row, bool plain)
      : formula_(params.map.formula),
        out_(static_cast<float*>(params.at.target)),
        scale_(params.scale),
        plain_(plain) {
    const ImageSize size = image_size(params.map.size, row);
    own_ = image_formula(formula_, ImageScale{0.0f, 0.0f, size.spacing, size.diagonal});
    edges_ = params.map.inner_zero ? size.widest : -1.0f;
  }

  __device__ bool plain() const { return plain_; }

  __device__ float value(Cost cost, uint32_t bits) const {
    const float d = S::finish(cost, false, scale_);
    const bool inside = kSigned ? int32_t(bits) < 0 : d > 0;
    FormulaLine line = own_.outside;
    if (inside) line = own_.inside;
    const float value = formula_value(formula_, line, d);
    if (cost == Cost(S::none())) return inside ? own_.full : own_.empty;
    return inside && d <= edges_ ? formula_.edge : value;
  }

  __device__ void write(int64_t at, Cost cost, bool negative) {
    out_[at] = value(cost, uint32_t(negative) << 31);
  }

  __device__ static bool has_extrema() { return false; }
  __device__ void hand_over(int64_t) {}

 private:
  const Formula& formula_;
  ImageFormula own_;
  float* out_;
  float scale_, edges_;
  bool plain_;
};

// The end of a kernel that holds a slice in shared memory; weigh.cuh has another one.
template <typename Value, bool kSigned, typename Params, typename Block>
__device__ void write_slice(const Params& params, const Block& block, uint32_t slice, bool plain) {
  const int64_t image = slice / uint32_t(params.extent[0]);
  if (params.map.used) {
    Mapper<Value, kSigned> end(params, block.spacing(slice), plain);
    block.store(slice, end);
  } else if (plain && params.at.second == nullptr) {
    Epilogue<Value, kSigned, true> end(params);
    block.store(slice, end);
    end.reduce(image);
  } else {
    Epilogue<Value, kSigned, false> end(params, plain);
    block.store(slice, end);
    end.reduce(image);
  }
}

}  // namespace dtk
