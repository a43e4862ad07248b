// Rows of an image as bits, 32 voxels to a word: what the labelling and the feature transform begin with.
//
// A row lies along the last axis; rows are counted slice by slice, image by image. A warp reads a word with
// one voxel to a lane, whatever dtype and stride, and several words before it uses the first, so that one
// latency covers them.
#pragma once
#include "operands.cuh"
#include "squares.cuh"

namespace dtk {

constexpr uint32_t kWarp = 0xffffffffu;

__device__ inline int lane_index() { return int(threadIdx.x % 32); }

// Bits up to a lane's own, and those below it.
__device__ inline uint32_t bits_to(int lane) { return (2u << lane) - 1; }
__device__ inline uint32_t bits_below(int lane) { return (1u << lane) - 1; }
// The highest bit that is set, the lowest one; there must be one.
__device__ inline int highest(uint32_t bits) { return 31 - __clz(int(bits)); }
__device__ inline int lowest(uint32_t bits) { return __ffs(int(bits)) - 1; }

// Offset of the first voxel of a row, in elements from image.data.
__device__ inline int64_t row_offset(const Image& image, int64_t row) {
  const int64_t y = row % image.shape[3], slice = row / image.shape[3];
  const int64_t z = slice % image.shape[2], outer = slice / image.shape[2];
  return outer / image.shape[1] * image.stride[0] + outer % image.shape[1] * image.stride[1] +
         z * image.stride[2] + y * image.stride[3];
}

// Foreground bits of kWords words of a row from voxel `first` on; 0 past its end. All lanes of a warp call
// this with the same arguments and get the same words.
template <int32_t kDType, int kWords>
__device__ inline void read_words_as(const Image& image, int64_t offset, int64_t class_index, int64_t first,
                                     uint32_t (&words)[kWords]) {
  bool own[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const int64_t x = first + 32 * i + lane_index();
    own[i] = x < image.shape[4] && foreground_as<kDType>(image, offset + x * image.stride[4], class_index);
  }
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __ballot_sync(kWarp, own[i]);
}

template <int kWords>
__device__ inline void read_words(const Image& image, int64_t offset, int64_t class_index, int64_t first,
                                  uint32_t (&words)[kWords]) {
  switch (image.dtype) {
    case kUInt8: return read_words_as<kUInt8>(image, offset, class_index, first, words);
    case kInt8: return read_words_as<kInt8>(image, offset, class_index, first, words);
    case kInt16: return read_words_as<kInt16>(image, offset, class_index, first, words);
    case kInt32: return read_words_as<kInt32>(image, offset, class_index, first, words);
    case kInt64: return read_words_as<kInt64>(image, offset, class_index, first, words);
    case kFloat16: return read_words_as<kFloat16>(image, offset, class_index, first, words);
    case kBFloat16: return read_words_as<kBFloat16>(image, offset, class_index, first, words);
    case kFloat32: return read_words_as<kFloat32>(image, offset, class_index, first, words);
    default: return read_words_as<kFloat64>(image, offset, class_index, first, words);
  }
}

// Over a group of `width` neighbouring lanes (a power of two): the largest value up to and with a lane's own.
__device__ inline int largest_so_far(int value, int width) {
  const int place = lane_index() & (width - 1);
  for (int step = 1; step < width; step *= 2) {
    const int other = __shfl_up_sync(kWarp, value, step, width);
    if (place >= step) value = larger(value, other);
  }
  return value;
}

}  // namespace dtk
