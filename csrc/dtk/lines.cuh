// Every axis after the first: whole lines in a tile, a solver, and for the last axis the epilogue. Volumes
// whose slices fit shared memory take slice.cuh for their two last axes instead.
//
// The data of a pass is (outer, n, inner), contiguous; line number l runs through
//   (l / inner) * n * inner + l % inner + p * inner,   p = 0 .. n - 1.
// A tile is `lanes` consecutive lines. Two mappings of threads to data, by `inner`:
//   a middle axis (inner > 1) lanes are neighbours in memory: thread = (row, lane), each row of lanes
//               reads one p of all lines; tile pitch = lanes, so lane-own accesses never conflict.
//   inner == 1  (the last axis, after the singletons are dropped) the tile is one contiguous piece of
//               lanes * n elements: consecutive threads take consecutive elements and the tile transposes
//               them; pitch lanes + 1 keeps columns of the tile on different banks.
// Both read and write whole sectors in order. Lines of one group share their weights: with one spacing row
// per sample a group is a sample, otherwise there is one group.
//
// Bytes per voxel of global memory: the source (1, 2 or 4) + the target (2 or 4). A middle pass writes
// signed squares (16-bit where they fit), the last pass float32; it may work in place on 4-byte squares,
// because a block reads its tile before it writes it and no other block touches those lines.
//
// kGlobal: the tile lies in global scratch, one per block, for lines too long for shared memory.
#pragma once
#include "divide.cuh"
#include "envelope.cuh"
#include "epilogue.cuh"
#include "operands.cuh"
#include "runs.cuh"
#include "strips.cuh"
#include "weigh.cuh"
#include "window.cuh"

namespace dtk {

// What a pass reads or, but for the first three, writes between axes.
enum Format : int32_t {
  kFromImage,  // 1-D problems: the image itself
  kRuns8,      // run codes of the scanned axis
  kRuns16,
  kSquares16,  // signed int16, +-0x7fff for none
  kSquares32,  // signed int32 or float
};

struct Lines {
  Operands at;
  int64_t groups;          // of lines with the same weights
  int64_t lines;           // per group
  int64_t inner;           // elements between voxels of a line
  int64_t extent[3];       // (z, y, x) as laid out, 1 where there is no such axis; for `closed`
  int64_t scratch_stride;  // kGlobal: bytes of a block's tile
  int64_t sites_offset;    // bytes of the tile's values
  int64_t shared_offset;   // of Tile::per_thread in shared memory
  int32_t length;          // n
  int32_t lanes_log2;
  int32_t pitch;
  int32_t site_pitch;
  int32_t source_format;
  int32_t target_format;  // kSquares16 or kSquares32 in a middle pass
  int32_t last;           // write distances, not squares for another pass
  int32_t out_dtype;      // DType of the distances
  int32_t squared;
  int32_t closed;        // the image is surrounded by background
  int32_t axis[3];       // spacing columns of `extent`, -1 where there is no such axis
  int32_t this_axis;     // spacing column of this pass
  int32_t scanned_axis;  // spacing column of the run codes
  int32_t singletons;    // bits: spacing columns of axes of length 1
  int32_t spacing_step;  // doubles between the rows of two groups
  float weight[3];       // by spacing column: float(spacing^2), unless at.spacing is set
  float scale;           // int32_t: the spacing, or its square; see Squares::finish
  Mapping map;
};

// float(spacing^2) of a spacing column for the lines of `group`.
template <typename Params>
__device__ inline float axis_weight(const Params& params, int64_t group, int column) {
  if (params.at.spacing == nullptr)
    return column == 0 ? params.weight[0] : column == 1 ? params.weight[1] : params.weight[2];
  const double s = params.at.spacing[group * params.spacing_step + column];
  return float(s * s);
}

// Signed value of a run code or a class; `foreground` is negative in a signed transform, and in an unsigned
// one the background is 0.
template <typename Value, bool kSigned>
__device__ inline Value class_value(bool foreground, Value square) {
  if (kSigned) return foreground ? -square : square;
  return foreground ? square : Value(0);
}

template <typename Value, bool kSigned, typename Run>
__device__ inline Value run_value(Run code, const Squares<Value>& scanned) {
  const int d = RunCode<Run>::distance(code);
  return class_value<Value, kSigned>(RunCode<Run>::foreground(code),
                                     d == 0 ? Squares<Value>::none() : Value(scanned.steps(Value(d))));
}

// Which lanes have a finite value, a positive one, a negative one.
struct Census {
  uint32_t finite = 0, positive = 0, negative = 0;

  template <typename Value>
  __device__ void add(Value v, int lane) {
    using S = Squares<Value>;
    finite |= uint32_t(S::magnitude(v) != typename S::Cost(S::none())) << lane;
    positive |= uint32_t(v > Value(0)) << lane;
    negative |= uint32_t(S::negative(v)) << lane;
  }
};

// (lane, p) of the elements threadIdx.x, threadIdx.x + blockDim.x, ... of a contiguous tile, one division in
// all.
struct Cursor {
  int length, lane, p, lane_step, p_step;

  __device__ explicit Cursor(int line_length)
      : length(line_length),
        lane(int(threadIdx.x) / length),
        p(int(threadIdx.x) % length),
        lane_step(int(blockDim.x) / length),
        p_step(int(blockDim.x) % length) {}

  __device__ void advance() {
    lane += lane_step;
    p += p_step;
    if (p >= length) {
      p -= length;
      ++lane;
    }
  }
};

template <typename Value, bool kSigned, typename Site, typename Solver>
struct Pass {
  const Lines& params;
  Tile<Value, Site> tile;
  int64_t group;
  int64_t first;  // line of lane 0 within the group
  int count;      // lines in this tile

  // Offset of the group's first element.
  __device__ int64_t origin() const { return group * params.lines * params.length; }

  // Offset of voxel 0 of a lane's line.
  __device__ int64_t line_start(int lane) const {
    const int64_t line = first + lane;
    return origin() + line / params.inner * params.length * params.inner + line % params.inner;
  }

  // Both loads issue kBatch reads before they use the first, so that one latency covers them.
  template <typename Read>
  __device__ Census load_lanes(Read read) const {
    constexpr int kBatch = 4;
    Census census;
    const int lane = tile.lane();
    if (lane >= count) return census;
    const int64_t start = line_start(lane);
    const int step = tile.row_count();
    Value v[kBatch];
    for (int p = tile.row(); p < params.length; p += kBatch * step) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        v[i] = p + i * step < params.length ? read(start + (p + i * step) * params.inner) : Value(0);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (p + i * step >= params.length) break;
        census.add(v[i], lane);
        tile.value[(p + i * step) * tile.pitch + lane] = v[i];
      }
    }
    return census;
  }

  template <int kBatch, typename Read>
  __device__ Census load_rows(Read read) const {
    Census census;
    const int64_t start = origin() + first * params.length;
    const int total = count * params.length;
    Cursor at(params.length);
    Value v[kBatch];
    for (int e = int(threadIdx.x); e < total; e += kBatch * int(blockDim.x)) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int element = e + i * int(blockDim.x);
        v[i] = element < total ? read(start + element) : Value(0);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (e + i * int(blockDim.x) >= total) break;
        census.add(v[i], at.lane);
        tile.value[at.p * tile.pitch + at.lane] = v[i];
        at.advance();
      }
    }
    return census;
  }

  __device__ Census load(const Squares<Value>& scanned) const {
    const void* source = params.at.source;
    const auto runs8 = [&](int64_t i) {
      return run_value<Value, kSigned>(static_cast<const uint8_t*>(source)[i], scanned);
    };
    const auto runs16 = [&](int64_t i) {
      return run_value<Value, kSigned>(static_cast<const uint16_t*>(source)[i], scanned);
    };
    // A middle axis comes right after the scan.
    if (!params.last) return params.source_format == kRuns8 ? load_lanes(runs8) : load_lanes(runs16);
    switch (params.source_format) {
      case kRuns8: return load_rows<4>(runs8);
      case kRuns16: return load_rows<4>(runs16);
      case kSquares16:
        return load_rows<4>([&](int64_t i) {
          const int v = static_cast<const int16_t*>(source)[i];
          const Value none = Squares<Value>::none();
          return v == 0x7fff ? none : v == -0x7fff ? -none : Value(v);
        });
      case kSquares32: return load_rows<4>([&](int64_t i) { return static_cast<const Value*>(source)[i]; });
      default: {
        const Image& image = params.at.image;
        return load_rows<1>([&](int64_t i) {
          const int64_t line = i / params.length, p = i % params.length;
          const int64_t batch = line / image.shape[1], class_index = line % image.shape[1];
          const int64_t offset =
              batch * image.stride[0] + class_index * image.stride[1] + p * image.stride[4];
          return class_value<Value, kSigned>(foreground_at(image, offset, class_index),
                                             Squares<Value>::none());
        });
      }
    }
  }

  // A middle pass: squares for the next axis.
  __device__ void store_squares(const Squares<Value>& squares) const {
    const int lane = tile.lane();
    if (lane >= count) return;
    const int64_t start = line_start(lane);
    for (int p = tile.row(); p < params.length; p += tile.row_count()) {
      const Value v = tile.template solved<Solver, kSigned>(p, lane, squares);
      const int64_t at = start + p * params.inner;
      if (params.target_format == kSquares16) {
        const int narrow = v == Squares<Value>::none()    ? 0x7fff
                           : v == -Squares<Value>::none() ? -0x7fff
                                                          : int(v);
        static_cast<int16_t*>(params.at.target)[at] = int16_t(narrow);
      } else {
        static_cast<Value*>(params.at.target)[at] = v;
      }
    }
  }

  // Closed border: the nearest voxel outside the image lies across a face, e = min(p + 1, n - p) steps
  // along one axis. The part of that minimum that the lane's line fixes.
  __device__ typename Squares<Value>::Cost line_border(int lane) const {
    using S = Squares<Value>;
    auto border = typename S::Cost(S::none());
    for (int k = 0; k < 3; ++k)
      if (params.singletons >> k & 1)
        border = smaller(border, S(axis_weight(params, group, k)).steps(Value(1)));
    const int64_t line = group * params.lines + first + lane;
    const int64_t y = line % params.extent[1];
    const int64_t z = line / params.extent[1] % params.extent[0];
    if (params.axis[1] >= 0)
      border = smaller(
          border,
          S(axis_weight(params, group, params.axis[1])).steps(Value(smaller(y + 1, params.extent[1] - y))));
    if (params.axis[0] >= 0)
      border = smaller(
          border,
          S(axis_weight(params, group, params.axis[0])).steps(Value(smaller(z + 1, params.extent[0] - z))));
    return border;
  }

  // The last pass: clamp at a closed border, epilogue. Returns the image of the thread's last voxel.
  template <typename End>
  __device__ int64_t store_distances(const Squares<Value>& squares,
                                     const typename Squares<Value>::Cost* border, End& end) const {
    using S = Squares<Value>;
    const int64_t start = origin() + first * params.length;
    const int total = count * params.length;
    Cursor at(params.length);
    const int64_t per_image = params.extent[0] * params.extent[1];
    const int64_t line = group * params.lines + first;
    const int64_t first_image = line / per_image, first_line = line % per_image;
    int64_t image = first_image;
    for (int e = int(threadIdx.x); e < total; e += int(blockDim.x)) {
      if (end.has_extrema() && first_line + at.lane >= per_image) {
        const int64_t now = first_image + (first_line + at.lane) / per_image;
        if (now != image) end.hand_over(image);
        image = now;
      }
      const Value v = tile.template solved<Solver, kSigned>(at.p, at.lane, squares);
      auto cost = S::magnitude(v);
      if (params.closed && (!kSigned || S::negative(v))) {
        const int face = smaller(at.p + 1, params.length - at.p);
        cost = smaller(cost, smaller(border[at.lane], squares.steps(Value(face))));
      }
      end.write(start + e, cost, S::negative(v));
      at.advance();
    }
    return image;
  }
};

// The end of a tile of the last pass: distances, or what weigh.cuh makes of them.
template <typename Value, bool kSigned, typename Pass>
__device__ void write_tile(const Lines& params, const Pass& pass, const Squares<Value>& squares,
                           const typename Squares<Value>::Cost* border, int64_t) {
  if (params.map.used) {
    const double* rows = params.at.spacing;
    Mapper<Value, kSigned> end(params, rows == nullptr ? nullptr : rows + pass.group * params.spacing_step,
                               false);
    pass.store_distances(squares, border, end);
    return;
  }
  Epilogue<Value, kSigned, false> end(params);
  end.reduce(pass.store_distances(squares, border, end));
}
// A group is an image here.
template <typename Value, bool kSigned, typename Pass>
__device__ void write_tile(const Weighed<Lines>& params, const Pass& pass, const Squares<Value>& squares,
                           const typename Squares<Value>::Cost* border, int64_t item) {
  Weigher<Value> end(params, pass.group);
  pass.store_distances(squares, border, end);
  end.reduce(item);
}

// Params: Lines, or for the last pass Weighed<Lines>.
template <typename Value, bool kSigned, typename Site, typename Solver, bool kGlobal, typename Params = Lines>
__global__ void __launch_bounds__(1024, 1) lines(const __grid_constant__ Params params) {
  using S = Squares<Value>;
  DTK_DYNAMIC_SHARED(uint64_t, dynamic_shared);  // for its alignment
  unsigned char* shared = reinterpret_cast<unsigned char*>(dynamic_shared);
  DTK_SHARED(uint32_t, census_bits, 3);
  DTK_SHARED(typename S::Cost, border, 32);
  unsigned char* storage =
      kGlobal ? static_cast<unsigned char*>(params.at.scratch) + blockIdx.x * params.scratch_stride : shared;
  const int lanes = 1 << params.lanes_log2;
  const int64_t tiles = (params.lines + lanes - 1) >> params.lanes_log2;  // per group

  for (int64_t item = blockIdx.x; item < params.groups * tiles; item += gridDim.x) {
    const int64_t group = item / tiles;
    const int64_t first = item % tiles << params.lanes_log2;
    const int count = int(smaller(int64_t(lanes), params.lines - first));
    Tile<Value, Site> tile{reinterpret_cast<Value*>(storage),
                           reinterpret_cast<Site*>(storage + params.sites_offset),
                           shared + params.shared_offset,
                           params.length,
                           params.pitch,
                           1,
                           params.site_pitch,
                           params.lanes_log2,
                           0,
                           int(threadIdx.x),
                           int(blockDim.x)};
    Pass<Value, kSigned, Site, Solver> pass{params, tile, group, first, count};
    const S squares(axis_weight(params, group, params.this_axis));

    if (threadIdx.x < 3) census_bits[threadIdx.x] = 0;
    if (params.closed && params.last && int(threadIdx.x) < count)
      border[threadIdx.x] = pass.line_border(int(threadIdx.x));
    __syncthreads();
    const Census own = pass.load(S(axis_weight(params, group, params.scanned_axis)));
    const uint32_t finite = warp_or(own.finite), positive = warp_or(own.positive),
                   negative = warp_or(own.negative);
    if (threadIdx.x % 32 == 0) {
      atomicOr(&census_bits[0], finite);
      atomicOr(&census_bits[1], positive);
      atomicOr(&census_bits[2], negative);
    }
    __syncthreads();
    // Signed: a line without any site is one class throughout and has no finite value. Unsigned: every 0 is
    // a site and needs no search.
    pass.tile.active =
        kSigned ? census_bits[0] | (census_bits[1] & census_bits[2]) : census_bits[0] & census_bits[1];
    if (pass.tile.active != 0) {
      Solver::template solve<kSigned>(pass.tile, squares);
      __syncthreads();
    }
    if (params.last) {
      write_tile<Value, kSigned>(params, pass, squares, border, item);
    } else {
      pass.store_squares(squares);
    }
    __syncthreads();  // the next tile overwrites this one
  }
}

}  // namespace dtk
