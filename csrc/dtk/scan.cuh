// The first axis in closed form: any image in, one run code per voxel out (runs.cuh).
//
// The caller permutes the image to (batch, class, p, mid, fast), p being the scanned axis of length n; the
// codes are contiguous in that order. Every line along p is a column.
//
// Distance - 1 to the other class is min(up, down), where `up` counts the voxels since the latest change
// of class at or before p, starting with 0 at the change, `down` the same from the other end, and both are
// kNone before the first change.
//
// scan<Run>: a thread works on kCount neighbouring columns (4 with bytes, 2 with half-words), whose counters
// share one 32-bit register, a field each: counting, restarting, the minimum and the class bit are one to
// five instructions for all of them. Columns are cut into segments, so that few columns still fill the
// device: thread = (segment, column chunk), neighbouring threads on neighbouring columns.
//   1. Rows are read in groups of kBits (that many independent loads in flight) and reduced to class bits,
//      one word per group, in shared memory.
//   2. Each segment runs over its own bits, as if nothing lay outside it, and finds what both counters are
//      at its ends: `up` by counting on, `down` as the length of the run that it begins with.
//   3. What enters a segment follows from the results of the segments on that side: a counter that met no
//      change within a segment leaves it as it entered, plus the segment's rows.
//   4. Each segment runs again, bottom to top, group by group, and stores.
// Shared memory per chunk: 8 bytes per group and per segment. Bytes per voxel: the image's element +
// sizeof(Run).
//
// scan_long: one thread per column for lines too long for that: codes with `up` on the way down, read
// again and finished on the way back.
#pragma once
#include "operands.cuh"
#include "runs.cuh"
#include "squares.cuh"

namespace dtk {

struct Scan {
  Operands at;          // image (permuted) -> target
  int32_t vectorised;   // one-byte elements, kCount columns are one aligned word (but for the pointer)
  int32_t chunks_log2;  // column chunks per block; the block's other threads are its segments
};

// kCount counters of kBits bits in one word. The top bit of a field is free for the class.
template <int kFieldBits>
struct Fields {
  static constexpr int kBits = kFieldBits;
  static constexpr int kCount = 32 / kBits;
  static constexpr uint32_t kOnes = kBits == 8 ? 0x01010101u : kBits == 16 ? 0x00010001u : 1u;
  static constexpr uint32_t kTop = kOnes << (kBits - 1);
  static constexpr uint32_t kNone = ~kTop;

  // Fields whose top bit is set become all ones, the others 0, whatever stands below the top bits.
  __device__ static uint32_t spread(uint32_t tops) {
    return kBits == 8 ? spread_signs<0xba98>(tops) : spread_signs<0xbb99>(tops);
  }
  // Bit i of every field at its top, with other bits below.
  __device__ static uint32_t raise(uint32_t x, int i) { return x << (kBits - 1 - i); }
  // All ones in every field that is not 0; fields must be below their top bit.
  __device__ static uint32_t nonzero(uint32_t x) { return spread(x + kNone); }
  // A counter behind `rows` rows that it left as `within` after starting there with kNone, when it really
  // came with `before`.
  __device__ static uint32_t pass(uint32_t before, uint32_t within, int rows) {
    const uint32_t met_change = nonzero(within ^ kNone);
    const uint32_t unbroken = before + (nonzero(before ^ kNone) & kOnes) * uint32_t(rows);
    return (within & met_change) | (unbroken & ~met_change);
  }
  // Fields must be below their top bit, so the difference of a field cannot borrow from the next.
  __device__ static uint32_t minimum(uint32_t a, uint32_t b) {
    if (kBits == 16) return __vminu2(a, b);
    const uint32_t take_b = spread((a | kTop) - b);  // where a >= b
    return (b & take_b) | (a & ~take_b);
  }
};

// Class bits of kBits rows of kCount columns: bit i of a field is row `first + i`. Rows past the end repeat
// the last one and so add no change of class.
template <int32_t kDType, typename F>
__device__ inline uint32_t gather(const Image& image, const int64_t* column, int first, int64_t class_index) {
  const int last = int(image.shape[2]) - 1;
  uint32_t bits = 0;
#pragma unroll 4
  for (int i = 0; i < F::kBits; ++i) {
    const int64_t row = (first + i < last ? first + i : last) * image.stride[2];
#pragma unroll
    for (int c = 0; c < F::kCount; ++c)
      bits |= uint32_t(foreground_as<kDType>(image, column[c] + row, class_index)) << (c * F::kBits + i);
  }
  return bits;
}

template <typename F>
__device__ inline uint32_t gather_any(const Image& image, const int64_t* column, int first,
                                      int64_t class_index) {
  switch (image.dtype) {
    case kUInt8: return gather<kUInt8, F>(image, column, first, class_index);
    case kInt8: return gather<kInt8, F>(image, column, first, class_index);
    case kInt16: return gather<kInt16, F>(image, column, first, class_index);
    case kInt32: return gather<kInt32, F>(image, column, first, class_index);
    case kInt64: return gather<kInt64, F>(image, column, first, class_index);
    case kFloat16: return gather<kFloat16, F>(image, column, first, class_index);
    case kBFloat16: return gather<kBFloat16, F>(image, column, first, class_index);
    case kFloat32: return gather<kFloat32, F>(image, column, first, class_index);
    default: return gather<kFloat64, F>(image, column, first, class_index);
  }
}

// The same for one-byte elements, a word of columns at a time: bits of the bytes that differ from `reference`
// (in each of its bytes). Only a group that is not `whole` has rows past the end.
template <typename F>
__device__ inline uint32_t gather_bytes(const Image& image, const uint8_t* column, int first, bool whole,
                                        uint32_t reference) {
  const int last = int(image.shape[2]) - 1;
  const uint8_t* row = column + first * image.stride[2];
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < F::kBits; ++i) {
    uint32_t differs;  // in the fields' top bits
    if (F::kBits == 8) {
      const uint32_t x = *reinterpret_cast<const uint32_t*>(row) ^ reference;
      differs = (x & F::kNone) + F::kNone | x;
    } else {
      differs =
          __byte_perm(uint32_t(*reinterpret_cast<const uint16_t*>(row)) ^ reference, 0, 0x4140) + F::kNone;
    }
    bits = bits >> 1 | differs & F::kTop;  // row i arrives at bit i
    if (whole || first + i < last) row += image.stride[2];
  }
  return bits;
}

// Offset of column `index` of (mid, fast) in image `outer` of (batch, class).
__device__ inline int64_t column_offset(const Image& image, int64_t outer, int64_t index) {
  const int64_t batch = outer / image.shape[1], class_index = outer % image.shape[1];
  return batch * image.stride[0] + class_index * image.stride[1] + index / image.shape[4] * image.stride[3] +
         index % image.shape[4] * image.stride[4];
}

// One counter of every column of a chunk, moved row by row.
template <typename F>
struct Counter {
  uint32_t value;
  uint32_t counting;  // 1 in the fields that have met a change

  __device__ explicit Counter(uint32_t start)
      : value(start), counting(F::nonzero(start ^ F::kNone) & F::kOnes) {}

  // To the next row; `changed`: all ones in the fields whose class differs between the two.
  __device__ void step(uint32_t changed) {
    value = (value + counting) & ~changed;
    counting |= changed & F::kOnes;
  }
};

template <typename Run>
__global__ void __launch_bounds__(256, 3) scan(const __grid_constant__ Scan params) {
  using F = Fields<8 * int(sizeof(Run))>;
  const Image& image = params.at.image;
  const int length = int(image.shape[2]);
  const int groups = (length + F::kBits - 1) / F::kBits;
  const int chunks_per_block = 1 << params.chunks_log2;
  const int segments = int(blockDim.x) >> params.chunks_log2;
  const int segment_groups = (groups + segments - 1) / segments;
  const int segment = int(threadIdx.x) >> params.chunks_log2;
  const int chunk = int(threadIdx.x) & (chunks_per_block - 1);
  const int first_group = smaller(segment * segment_groups, groups);
  const int end_group = smaller(first_group + segment_groups, groups);

  // [group][chunk], then [segment][chunk].
  DTK_DYNAMIC_SHARED(uint32_t, shared);
  uint32_t* class_bits = shared + chunk;
  uint32_t* up_before =
      class_bits + groups * chunks_per_block;  // `up` at the row above the group, from step 2
  uint32_t* segment_up = up_before + groups * chunks_per_block;
  uint32_t* segment_down = segment_up + segments * chunks_per_block;

  const int64_t columns = image.shape[3] * image.shape[4];
  const int64_t chunks = (columns + F::kCount - 1) / F::kCount;  // of one image
  const int64_t items = image.shape[0] * image.shape[1] * chunks;
  const bool whole_words = columns % F::kCount == 0;
  const bool bytes = params.vectorised && reinterpret_cast<uint64_t>(image.data) % uint64_t(F::kCount) == 0;

  // Bit i of a field: the class of row i of group g differs from that of the row above.
  const auto changes = [&](int g) {
    const uint32_t bits = class_bits[g * chunks_per_block];
    const uint32_t above =
        (g > 0 ? class_bits[(g - 1) * chunks_per_block] >> (F::kBits - 1) : bits) & F::kOnes;
    return bits ^ ((bits & ~F::kTop) << 1 | above);
  };
  const auto rows_before = [&](int g) { return smaller(g * F::kBits, length) - first_group * F::kBits; };

  for (int64_t base = int64_t(blockIdx.x) * chunks_per_block; base < items;
       base += int64_t(gridDim.x) * chunks_per_block) {
    const bool valid = base + chunk < items;
    const int64_t item = valid ? base + chunk : items - 1;
    const int64_t outer = item / chunks;
    const int64_t first_column = item % chunks * F::kCount;
    const int64_t class_index = outer % image.shape[1];

    if (bytes) {
      const uint8_t* column =
          static_cast<const uint8_t*>(image.data) + column_offset(image, outer, first_column);
      const bool labels = image.rule == kEqualsClass;
      const int64_t label = labels ? class_index + int64_t(image.threshold) : 0;
      const uint32_t reference = uint32_t(label & 0xff) * 0x01010101u >> (32 - 8 * F::kCount);
      const uint32_t possible = label < 0 || label > 255 ? 0u : 0xffffffffu;
      const uint32_t flip = labels ? 0xffffffffu : 0u;
      for (int g = first_group; g < end_group; ++g) {
        const bool whole = (g + 1) * F::kBits <= length;
        const uint32_t bits = whole ? gather_bytes<F>(image, column, g * F::kBits, true, reference)
                                    : gather_bytes<F>(image, column, g * F::kBits, false, reference);
        class_bits[g * chunks_per_block] = possible & (bits ^ flip);
      }
    } else {
      int64_t column[F::kCount];
#pragma unroll
      for (int c = 0; c < F::kCount; ++c)
        column[c] = column_offset(image, outer, smaller(first_column + c, columns - 1));
      for (int g = first_group; g < end_group; ++g)
        class_bits[g * chunks_per_block] = gather_any<F>(image, column, g * F::kBits, class_index);
    }
    __syncthreads();

    // Between the segment's last row and the one below it.
    const uint32_t change_below = end_group < groups ? F::spread(F::raise(changes(end_group), 0)) : 0u;
    Counter<F> up(F::kNone);
    // The rows behind the segment's first one that follow it without a change, as long as there was none.
    uint32_t run = 0, unbroken = F::kOnes;
    for (int g = first_group; g < end_group; ++g) {
      up_before[g * chunks_per_block] = up.value;
      const uint32_t change = changes(g);
#pragma unroll
      for (int i = 0; i < F::kBits; ++i) {
        const uint32_t changed = F::spread(F::raise(change, i));
        up.step(changed);
        unbroken &= ~changed;
        run += unbroken;
        if (i == 0 && g == first_group) run = 0, unbroken = F::kOnes;
      }
    }
    uint32_t up_entry = F::kNone, down_entry = F::kNone;
    if (segments > 1) {
      const uint32_t met_change = F::nonzero((unbroken & ~change_below) ^ F::kOnes);
      segment_up[segment * chunks_per_block] = up.value;
      segment_down[segment * chunks_per_block] = (run & met_change) | (F::kNone & ~met_change);
      __syncthreads();
      const int rows = segment_groups * F::kBits;  // only the last segments may have fewer
      for (int s = 0; s < segment; ++s) up_entry = F::pass(up_entry, segment_up[s * chunks_per_block], rows);
      for (int s = segments - 1; s > segment; --s)
        down_entry = F::pass(down_entry, segment_down[s * chunks_per_block], rows);
    }

    Run* out = static_cast<Run*>(params.at.target) + (outer * length * columns + first_column);
    Counter<F> down(down_entry);
    uint32_t below = change_below;
    for (int g = end_group - 1; g >= first_group; --g) {
      const uint32_t bits = class_bits[g * chunks_per_block];
      const uint32_t change = changes(g);
      uint32_t changed[F::kBits], code[F::kBits];
      Counter<F> again(F::pass(up_entry, up_before[g * chunks_per_block], rows_before(g)));
#pragma unroll
      for (int i = 0; i < F::kBits; ++i) {
        changed[i] = F::spread(F::raise(change, i));
        again.step(changed[i]);
        code[i] = again.value;
      }
#pragma unroll
      for (int i = F::kBits - 1; i >= 0; --i) {
        down.step(i + 1 < F::kBits ? changed[(i + 1) % F::kBits] : below);
        code[i] = F::minimum(code[i], down.value) | (F::raise(bits, i) & F::kTop);
      }
      below = changed[0];
      const int rows = valid ? smaller(length - g * F::kBits, F::kBits) : 0;
      Run* to = out + g * F::kBits * columns;
      if (whole_words) {
#pragma unroll
        for (int i = 0; i < F::kBits; ++i, to += columns)
          if (i < rows) *reinterpret_cast<uint32_t*>(to) = code[i];
        continue;
      }
#pragma unroll
      for (int i = 0; i < F::kBits; ++i, to += columns) {
#pragma unroll
        for (int c = 0; c < F::kCount; ++c)
          if (i < rows && first_column + c < columns) to[c] = Run(code[i] >> (c * F::kBits));
      }
    }
    __syncthreads();  // the next chunks overwrite the bits
  }
}

// Always half-words: lines this long do not fit bytes. Not a template, but NVRTC and the registry name
// every kernel alike.
template <typename Run>
__global__ void __launch_bounds__(256, 1) scan_long(const __grid_constant__ Scan params) {
  using F = Fields<32>;  // 32 rows of one column at a time
  const Image& image = params.at.image;
  constexpr int kNone = RunCode<Run>::kNone;
  constexpr int kBatch = 8;
  const int length = int(image.shape[2]);
  const int64_t columns = image.shape[3] * image.shape[4];
  const int64_t items = image.shape[0] * image.shape[1] * columns;

  for (int64_t item = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; item < items;
       item += int64_t(gridDim.x) * blockDim.x) {
    const int64_t outer = item / columns;
    const int64_t index = item % columns;
    const int64_t column = column_offset(image, outer, index);
    Run* out = static_cast<Run*>(params.at.target) + (outer * length * columns + index);

    int up = kNone;
    uint32_t previous = 0;
    for (int first = 0; first < length; first += F::kBits) {
      const uint32_t bits = gather_any<F>(image, &column, first, outer % image.shape[1]);
      if (first == 0) previous = bits & 1;
      for (int i = 0; i < F::kBits && first + i < length; ++i) {
        const uint32_t own = bits >> i & 1;
        up = own != previous ? 0 : up == kNone ? kNone : up + 1;
        previous = own;
        out[(first + i) * columns] = Run(own << (RunCode<Run>::kBits - 1) | uint32_t(up));
      }
    }

    int down = kNone;
    for (int end = length; end > 0; end -= kBatch) {
      Run code[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) code[i] = out[(end > i ? end - 1 - i : 0) * columns];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (end <= i) continue;
        const uint32_t own = RunCode<Run>::foreground(code[i]);
        down = own != previous ? 0 : down == kNone ? kNone : down + 1;
        previous = own;
        const int best = (code[i] & kNone) < down ? code[i] & kNone : down;
        out[(end - 1 - i) * columns] = Run(own << (RunCode<Run>::kBits - 1) | uint32_t(best));
      }
    }
  }
}

}  // namespace dtk
