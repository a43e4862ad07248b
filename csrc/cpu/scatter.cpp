// The transpose of reading at positions: every voxel sends its value to one place.
//
// The sum at a place is taken in the order of the senders, so it must not depend on how many threads there
// are, and needs no atomics: a thread owns a range of places, and adds what senders send there. Senders are
// grouped in blocks whose lowest and highest places are found first; where minimisers lie near their voxels,
// as those of envelopes do, few blocks concern more than one range.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "envelope.h"
#include "pool.h"
#include "scratch.h"

namespace dtk::cpu {

namespace {

constexpr int64_t kVoxelsPerThread = 1 << 16;  // less is not worth waking a thread for
constexpr int64_t kBlock = 1 << 12;            // senders

thread_local Scratch block_scratch;

struct Span {
  int64_t low, high;  // of places; low > high: none
};

Span span_of(const int64_t* index, int64_t count) {
  int64_t low = INT64_MAX, high = -1;
  for (int64_t i = 0; i < count; i++) {
    const int64_t place = index[i];
    low = std::min(low, place < 0 ? INT64_MAX : place);
    high = std::max(high, place);
  }
  return {low, high};
}

template <class T>
void add(const T* grad, const int64_t* index, int64_t count, T* sums, int64_t begin, int64_t end) {
  for (int64_t i = 0; i < count; i++) {
    const int64_t place = index[i];
    if (place >= begin && place < end) sums[place] += grad[i];
  }
}

template <class T>
void run(const Scatter& s) {
  const T* grad = static_cast<const T*>(s.grad);
  T* sums = static_cast<T*>(s.sums);
  const int64_t total = s.images * s.voxels;
  const int threads = int(std::max<int64_t>(1, std::min<int64_t>(s.threads, total / kVoxelsPerThread)));
  advise_huge_pages(sums, size_t(total) * sizeof(T));
  if (threads == 1 || s.images >= 2 * threads) {
    parallel(threads, s.images, [&](TaskQueue& queue) {
      int64_t image;
      while (queue.next(image)) {
        T* to = sums + image * s.voxels;
        std::memset(to, 0, size_t(s.voxels) * sizeof(T));
        add(grad + image * s.voxels, s.index + image * s.voxels, s.voxels, to, 0, s.voxels);
      }
    });
    return;
  }
  const int64_t blocks = (s.voxels + kBlock - 1) / kBlock, ranges = 4 * threads;
  ScratchLease lease(block_scratch, size_t(blocks) * sizeof(Span));
  Span* spans = reinterpret_cast<Span*>(lease.data());
  const auto size = [&](int64_t block) { return std::min(kBlock, s.voxels - block * kBlock); };
  for (int64_t image = 0; image < s.images; image++) {
    const int64_t* index = s.index + image * s.voxels;
    const T* from = grad + image * s.voxels;
    T* to = sums + image * s.voxels;
    parallel(threads, blocks, [&](TaskQueue& queue) {
      int64_t block;
      while (queue.next(block)) spans[block] = span_of(index + block * kBlock, size(block));
    });
    parallel(threads, ranges, [&](TaskQueue& queue) {
      int64_t range;
      while (queue.next(range)) {
        const int64_t begin = s.voxels * range / ranges, end = s.voxels * (range + 1) / ranges;
        std::memset(to + begin, 0, size_t(end - begin) * sizeof(T));
        for (int64_t block = 0; block < blocks; block++) {
          if (spans[block].low >= end || spans[block].high < begin) continue;
          add(from + block * kBlock, index + block * kBlock, size(block), to, begin, end);
        }
      }
    });
  }
}

}  // namespace

void scatter(const Scatter& s) {
  if (s.images == 0 || s.voxels == 0) return;
  if (s.wide) {
    run<double>(s);
  } else {
    run<float>(s);
  }
}

}  // namespace dtk::cpu
