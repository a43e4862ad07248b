// The two last axes of a volume in one kernel: a block takes a slice (y, x) of run codes into shared memory,
// solves its columns and then its rows there, and writes distances.
//
// Bytes per voxel of global memory: a code (1 or 2) + a distance (4). With the scan before it (an element of
// the image and the code) a transform of bytes moves 7 bytes per voxel up to length 128 of the first axis and
// 9 above, instead of 11 and 17 in three kernels.
//
// The slice lies in shared memory as one array of values (or two, split.cuh) in place: [y * pitch + x]. A
// tile of columns has steps of `pitch` between voxels and of 1 between lanes, a tile of rows the other way
// round, so that nothing is transposed; `pitch` counts an odd number of words, so that 32 lanes meet 32 banks
// in both directions.
//
// Threads: `teams` of them work on neighbouring tiles at once, in step, because barriers are the block's. The
// threads of a team are rows of lanes as the solver wants them; only solvers that work in place can be used.
//
// Early outs, from the codes alone. A column is dead when it holds one class and no finite distance. After
// the first pass a column is all finite or dead, so either every row has a site or none has: none when the
// slice is one class without finite distances, and then both passes are skipped. An unsigned column or slice
// is dead as well when it is background throughout, so that empty slices cost a read and a write.
#pragma once
#include "epilogue.cuh"
#include "lines.cuh"
#include "split.cuh"
#include "weigh.cuh"

namespace dtk {

struct Slices {
  Operands at;            // run codes -> distances
  uint32_t slices;        // of all images, below 2^31
  uint32_t group;         // slices that share their weights
  int32_t high_offset;    // in shared memory: of the upper bits of split values
  int32_t flags_offset;   // behind the values: what columns hold, two words for each
  int32_t team_offset;    // of the first team's Tile::per_thread
  int32_t team_bytes;     // from one team to the next
  int32_t sites_offset;   // from a team's Tile::per_thread to its sites
  int32_t source_format;  // kRuns8 or kRuns16
  int32_t words;          // of codes in a row: x extent, or that by 4 or 2 where rows are whole words
  int32_t extent[3];      // (z, y, x)
  int32_t pitch;          // of values
  int32_t lanes_log2;
  int32_t teams;
  int32_t team_threads;
  int32_t out_dtype;  // DType
  int32_t squared;
  int32_t closed;
  int32_t spacing_step;  // as in Lines
  float weight[3];
  float scale;
  int32_t plain;  // float32, open border
  Mapping map;
};

// kCount codes of neighbouring columns in one word: what a reduction over many of them holds.
template <typename Run, int kCount>
struct CodeWords {
  static constexpr int kBits = RunCode<Run>::kBits;
  static constexpr uint32_t kOnes = kCount == 1 ? 1u : kCount == 2 ? 0x00010001u : 0x01010101u;
  static constexpr uint32_t kTop = kOnes << (kBits - 1);
  static constexpr uint32_t kNone = kOnes * uint32_t(RunCode<Run>::kNone);

  // Whether codes with this intersection and union have a site and something to solve.
  template <bool kSigned>
  __device__ static bool alive(uint32_t all, uint32_t any) {
    const bool finite = (all & kNone) != kNone;
    const bool foreground = (any & kTop) != 0, background = (all & kTop) != kTop;
    return kSigned ? finite || (foreground && background) : foreground && (finite || background);
  }
};

// Values in shared memory: whole, or split in three bytes.
template <typename Value, bool kSplit>
struct SliceValues {
  using Type = Value*;
  __device__ static Type at(unsigned char* shared, int) { return reinterpret_cast<Value*>(shared); }
};
template <>
struct SliceValues<int32_t, true> {
  using Type = SplitValues;
  __device__ static Type at(unsigned char* shared, int high_offset) {
    return SplitValues{reinterpret_cast<uint16_t*>(shared), reinterpret_cast<int8_t*>(shared + high_offset)};
  }
};

template <typename Value, bool kSigned, typename Solver, bool kSplit>
struct Slice {
  using Values = typename SliceValues<Value, kSplit>::Type;

  const Slices& params;
  unsigned char* shared;
  Values value;
  uint32_t* flags;  // [2 * word]: intersection of a word of columns, then their union

  __device__ bool whole_words() const { return params.words != params.extent[2]; }

  __device__ Squares<Value> squares(uint32_t slice, int column) const {
    return Squares<Value>(axis_weight(params, slice / params.group, column));
  }

  // The row of spacing on the device, if any.
  __device__ const double* spacing(uint32_t slice) const {
    const double* rows = params.at.spacing;
    return rows == nullptr ? nullptr : rows + slice / params.group * uint32_t(params.spacing_step);
  }

  // Codes into values, kCount columns at a time; every thread stays with its columns. Returns whether the
  // thread's codes are alive taken together, in bits: finite, foreground, background.
  template <typename Run, int kCount>
  __device__ uint32_t load(uint32_t slice, int word, int row) const {
    using Codes = CodeWords<Run, kCount>;
    constexpr int kBatch = 4;
    const int height = params.extent[1], width = params.extent[2];
    const int step = int(blockDim.x) / params.words;
    if (row >= step) return 0;
    const Squares<Value> scanned = squares(slice, 0);
    const Run* source =
        static_cast<const Run*>(params.at.source) + (int64_t(slice) * height * width + word * kCount);
    uint32_t all = 0xffffffffu, any = 0;
    uint32_t codes[kBatch];
    for (int y = row; y < height; y += kBatch * step) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const Run* from = source + smaller(y + i * step, height - 1) * width;
        codes[i] = kCount == 1 ? uint32_t(*from) : *reinterpret_cast<const uint32_t*>(from);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (y + i * step >= height) break;
        all &= codes[i];
        any |= codes[i];
        const Values to = value + ((y + i * step) * params.pitch + word * kCount);
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
          // Every 32 / kCount words begin with another column, so that a warp's stores meet all banks.
          const int c = (k + word / (32 / kCount)) % kCount;
          to[c] = run_value<Value, kSigned>(Run(codes[i] >> (c * Codes::kBits)), scanned);
        }
      }
    }
    if (row >= height) return 0;
    atomicAnd(&flags[2 * word], all);
    atomicOr(&flags[2 * word + 1], any);
    return uint32_t((all & Codes::kNone) != Codes::kNone) | uint32_t((any & Codes::kTop) != 0) << 1 |
           uint32_t((all & Codes::kTop) != Codes::kTop) << 2;
  }

  template <typename Run, int kCount>
  __device__ bool column_alive(int x) const {
    const int shift = x % kCount * RunCode<Run>::kBits;
    return CodeWords<Run, 1>::template alive<kSigned>(flags[2 * (x / kCount)] >> shift,
                                                      flags[2 * (x / kCount) + 1] >> shift);
  }

  __device__ bool column_alive(int x) const {
    if (params.source_format == kRuns8)
      return whole_words() ? column_alive<uint8_t, 4>(x) : column_alive<uint8_t, 1>(x);
    return whole_words() ? column_alive<uint16_t, 2>(x) : column_alive<uint16_t, 1>(x);
  }

  __device__ uint32_t load(uint32_t slice) const {
    const int word = int(threadIdx.x) % params.words, row = int(threadIdx.x) / params.words;
    if (params.source_format == kRuns8)
      return whole_words() ? load<uint8_t, 4>(slice, word, row) : load<uint8_t, 1>(slice, word, row);
    return whole_words() ? load<uint16_t, 2>(slice, word, row) : load<uint16_t, 1>(slice, word, row);
  }

  // All columns, or all rows: one loop for both, so that the solver is compiled once.
  __device__ void pass(uint32_t slice, bool rows) const {
    const int lanes = 1 << params.lanes_log2;
    const int team = int(threadIdx.x) / params.team_threads;
    const int thread = int(threadIdx.x) % params.team_threads;
    const int lines = rows ? params.extent[1] : params.extent[2];
    const int lane_pitch = rows ? params.pitch : 1;
    unsigned char* own = shared + params.team_offset + team * params.team_bytes;
    const Squares<Value> along = squares(slice, rows ? 2 : 1);
#pragma unroll 1
    for (int first = 0; first < lines; first += params.teams << params.lanes_log2) {
      const int lane0 = first + (team << params.lanes_log2);
      const int line = lane0 + (thread & (lanes - 1));
      const bool mine = team < params.teams && line < lines && (rows || column_alive(line));
      const Tile<Value, uint16_t, Values> tile{
          value + lane0 * lane_pitch,
          reinterpret_cast<uint16_t*>(own + params.sites_offset),
          own,
          rows ? params.extent[2] : params.extent[1],
          rows ? 1 : params.pitch,
          lane_pitch,
          lanes,
          params.lanes_log2,
          mine ? 0xffffffffu : 0u,  // a solver asks for its own lane alone
          thread,
          params.team_threads};
      Solver::template solve<kSigned>(tile, along);
    }
  }

  // Border and epilogue, in the order of the memory.
  template <typename End>
  __device__ void store(uint32_t slice, End& end) const {
    using S = Squares<Value>;
    const S along_z = squares(slice, 0), along_y = squares(slice, 1), along_x = squares(slice, 2);
    const int height = params.extent[1], width = params.extent[2];
    const int z = int(slice % uint32_t(params.extent[0]));
    int64_t at = int64_t(slice) * height * width;
    const int64_t last = at + height * width;
    // Thread by thread along the rows; one division in all.
    int y = int(threadIdx.x) / width, x = int(threadIdx.x) % width;
    const int y_step = int(blockDim.x) / width, x_step = int(blockDim.x) % width;
    Values from = value + (y * params.pitch + x);
    for (at += threadIdx.x; at < last; at += blockDim.x) {
      const Value v = *from;
      auto cost = S::magnitude(v);
      if (kSplit && cost == typename S::Cost(SplitValues::kNone)) cost = typename S::Cost(S::none());
      if (!End::kPlain && params.closed && (!kSigned || S::negative(v))) {
        cost = smaller(cost, along_z.steps(Value(smaller(z + 1, params.extent[0] - z))));
        cost = smaller(cost, along_y.steps(Value(smaller(y + 1, height - y))));
        cost = smaller(cost, along_x.steps(Value(smaller(x + 1, width - x))));
      }
      end.write(at, cost, S::negative(v));
      y += y_step;
      x += x_step;
      from += y_step * params.pitch + x_step;
      if (x >= width) {
        ++y;
        x -= width;
        from += params.pitch - width;
      }
    }
  }
};

// Params: Slices, or Weighed<Slices>.
template <typename Value, bool kSigned, typename Solver, bool kSplit = false, typename Params = Slices>
__global__ void __launch_bounds__(1024, 1) slices(const __grid_constant__ Params params) {
  DTK_DYNAMIC_SHARED(uint64_t, dynamic_shared);  // for its alignment
  unsigned char* shared = reinterpret_cast<unsigned char*>(dynamic_shared);
  DTK_SHARED(uint32_t, found, 1);
  const Slice<Value, kSigned, Solver, kSplit> slice{
      params, shared, SliceValues<Value, kSplit>::at(shared, params.high_offset),
      reinterpret_cast<uint32_t*>(shared + params.flags_offset)};

  for (uint32_t item = blockIdx.x; item < params.slices; item += gridDim.x) {
    if (threadIdx.x == 0) found[0] = 0;
    for (int x = int(threadIdx.x); x < params.words; x += int(blockDim.x)) {
      slice.flags[2 * x] = 0xffffffffu;
      slice.flags[2 * x + 1] = 0;
    }
    __syncthreads();
    const uint32_t own = warp_or(slice.load(item));
    if (threadIdx.x % 32 == 0) atomicOr(&found[0], own);
    __syncthreads();
    const bool finite = (found[0] & 1) != 0, foreground = (found[0] & 2) != 0,
               background = (found[0] & 4) != 0;
    if (kSigned ? finite || (foreground && background) : foreground && (finite || background)) {
#pragma unroll 1
      for (int turn = 0; turn < 2; ++turn) {
        slice.pass(item, turn != 0);
        __syncthreads();
      }
    }
    write_slice<Value, kSigned>(params, slice, item, params.plain != 0);
    __syncthreads();  // the next slice overwrites this one
  }
}

}  // namespace dtk
