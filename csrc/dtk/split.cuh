// Integers of 24 bits in three bytes, 16 bits in one array and 8 in another: squares of slices that do not
// fit shared memory in 32 bits, up to 256^2 and a little above where there are 227 KB. Used like a pointer to
// int32_t. What is stored beyond the range becomes its end: so does "no site", which then is 2^23 - 1, above
// every square of such a slice still.
#pragma once
#include "squares.cuh"

namespace dtk {

struct SplitValues {
  static constexpr int32_t kNone = 0x7fffff;

  uint16_t* low;
  int8_t* high;

  struct Reference {
    uint16_t* low;
    int8_t* high;

    __device__ operator int32_t() const { return int32_t(*high) * 65536 + int32_t(*low); }
    __device__ const Reference& operator=(int32_t v) const {
      v = larger(smaller(v, kNone), -kNone);
      *low = uint16_t(v & 0xffff);
      *high = int8_t(v >> 16);
      return *this;
    }
  };

  __device__ Reference operator[](int i) const { return Reference{low + i, high + i}; }
  __device__ Reference operator*() const { return (*this)[0]; }
  __device__ SplitValues operator+(int i) const { return SplitValues{low + i, high + i}; }
  __device__ SplitValues& operator+=(int i) {
    low += i;
    high += i;
    return *this;
  }
};

}  // namespace dtk
