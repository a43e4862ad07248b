// The feature transform: per voxel the nearest background voxel, and of several equally near the lowest in
// raster order.
//
//   nearest_rows   the nearest x in the voxel's own row, in closed form: 2 bytes per voxel
//   nearest_lines  the next axis: the nearest (y, x) in the voxel's own slice, 4 bytes per voxel
//   nearest_lines  the last axis: position and distance
//
// Ties. The axes come in the order x, y, z, and each takes the lowest of its minimisers. Then the voxel found
// is the lowest in raster order of all the nearest, by induction over the axes: call R(z') the sites of slice
// z' that are nearest to (z, y, x) within that slice. The sites nearest of all are the union of R(z') over
// the minimisers z' of the z axis, and all of R(z') precede all of R(z' + 1) in raster order; so the first
// site of the union is the first of R(z') for the lowest minimiser z', which is what the y axis found in
// slice z', by the same argument one axis down. (In any other order of axes positions would have to be
// carried along and compared.)
//
// What is carried is a place, the coordinates found so far; squares follow from it. At unequal spacing they
// are the sums (x + y) + z of rounded terms, in an order that is not the distance transform's: distances are
// left to that one, so that both operators give the same bits.
//
// Maps that want their zero level between voxels (FacesProblem in dtkernels/problem.py) ask for neither
// position nor distance, but for half the spacing across the face that the way from the nearest voxel
// crosses: the last pass adds it to the map, once for the mask and once for its complement. Of equals they
// take the first by x, then y, then z, as passes in the order z, y, x find it (csrc/cpu/faces.h). By the
// induction above each axis does, where the site is the one whose place comes first in that order. All
// minimisers of p lie between the lowest of p and the lowest of p + 1, so looking at each costs a line one
// step per voxel.
//
// Where every sample has its own spacing, in memory of the device, no host knows which of them are equal
// along all axes. Then two launches share the samples: `suits` makes the integer one skip those with unequal
// spacing and the rounded one the others.
//
// Bytes per voxel of global memory, beside the image: 2 written and read again for each row pass, 4 for the
// middle pass, and 8 for the position and 4 for the distance in the end. The middle pass writes into the
// distances, over which the last pass works in place: it gathers the places of a tile before a barrier and
// writes behind it.
#pragma once
#include "argmin.cuh"
#include "lines.cuh"

namespace dtk {

struct NearestRows {
  Operands
      at;  // image -> x of the nearest (uint16_t); of images with one axis: positions, distances in `second`
  int64_t rows;      // of all images
  int32_t words;     // of a row
  int32_t last;      // the image has one axis
  float scale;       // the spacing along it; 0: leave the distances alone
  int32_t inverted;  // foreground is background, and background foreground
};

// No background in the row, the slice.
constexpr uint16_t kNoX = 0xffff;
constexpr uint32_t kNoPlace = 0xffffffffu;

// Half the spacing of a column for the lines of `group`.
template <typename Params>
__device__ inline float half_spacing(const Params& params, int64_t group, int column) {
  if (params.at.spacing == nullptr)
    return column == 0 ? params.half[0] : column == 1 ? params.half[1] : params.half[2];
  return 0.5f * float(params.at.spacing[group * params.spacing_step + column]);
}

// Over 32 lanes: the smallest value from a lane's own on.
__device__ inline int smallest_from(int value) {
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_down_sync(kWarp, value, step);
    if (lane_index() + step < 32) value = smaller(value, other);
  }
  return value;
}

// Background bits of a row in shared memory, and for each word the nearest background before and behind it.
//
// Threads: a warp to a row.
template <typename X>
__global__ void __launch_bounds__(256, 3) nearest_rows(const __grid_constant__ NearestRows params) {
  constexpr int kBatch = 4;
  constexpr int kNoRight = 1 << 30;
  DTK_DYNAMIC_SHARED(uint32_t, shared);
  const Image& image = params.at.image;
  const int lane = lane_index(), warp = int(threadIdx.x / 32), words = params.words;
  const int width = int(image.shape[4]);
  uint32_t* background = shared + warp * 3 * words;
  int* left_of = reinterpret_cast<int*>(background + words);
  int* right_of = left_of + words;
  const int64_t warps = int64_t(gridDim.x) * (blockDim.x / 32);

  for (int64_t row = int64_t(blockIdx.x) * (blockDim.x / 32) + warp; row < params.rows; row += warps) {
    const int64_t offset = row_offset(image, row);
    const int64_t class_index = row / (image.shape[2] * image.shape[3]) % image.shape[1];
    for (int first = 0; first < words; first += kBatch) {
      uint32_t bits[kBatch];
      read_words(image, offset, class_index, int64_t(first) * 32, bits);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int end = width - 32 * (first + i);  // voxels from the word's beginning
        if (first + i < words && lane == 0)
          background[first + i] =
              (params.inverted ? bits[i] : ~bits[i]) & (end < 32 ? bits_below(end) : 0xffffffffu);
      }
    }
    __syncwarp();
    int carried = -1;
    for (int base = 0; base < words; base += 32) {
      const int word = base + lane;
      const uint32_t bits = word < words ? background[word] : 0u;
      const int so_far = larger(carried, largest_so_far(bits != 0 ? 32 * word + highest(bits) : -1, 32));
      const int before = __shfl_up_sync(kWarp, so_far, 1);
      if (word < words) left_of[word] = lane > 0 ? before : carried;
      carried = __shfl_sync(kWarp, so_far, 31);
    }
    carried = kNoRight;
    for (int base = (words - 1) & -32; base >= 0; base -= 32) {
      const int word = base + lane;
      const uint32_t bits = word < words ? background[word] : 0u;
      const int from_here = smaller(carried, smallest_from(bits != 0 ? 32 * word + lowest(bits) : kNoRight));
      const int behind = __shfl_down_sync(kWarp, from_here, 1);
      if (word < words) right_of[word] = lane < 31 ? behind : carried;
      carried = __shfl_sync(kWarp, from_here, 0);
    }
    __syncwarp();
    for (int word = 0; word < words; ++word) {
      const int x = 32 * word + lane;
      const uint32_t bits = background[word];
      const uint32_t to_left = bits & bits_to(lane), to_right = bits & ~bits_below(lane);
      const int left = to_left != 0 ? 32 * word + highest(to_left) : left_of[word];
      const int right = to_right != 0 ? 32 * word + lowest(to_right) : right_of[word];
      const bool absent = left < 0 && right == kNoRight;
      const int nearest = left >= 0 && x - left <= right - x ? left : right;
      if (x >= width) continue;
      if (!params.last) {
        static_cast<X*>(params.at.target)[row * width + x] = absent ? X(kNoX) : X(nearest);
        continue;
      }
      static_cast<int64_t*>(params.at.target)[row * width + x] = absent ? -1 : nearest;
      if (params.scale != 0.0f) {
        const uint32_t square = absent ? Exact::none() : uint32_t((nearest - x) * (nearest - x));
        static_cast<float*>(params.at.second)[row * width + x] =
            Squares<int32_t>::finish(square, false, params.scale);
      }
    }
    __syncwarp();  // the next row overwrites the words
  }
}

struct NearestLines {
  Operands at;             // places -> places, or positions and, in `second`, distances
  int64_t groups;          // of lines with the same weights
  int64_t lines;           // per group
  int64_t inner;           // voxels between voxels of a line: the size of a row, or of a slice
  int64_t scratch_stride;  // kGlobal: bytes of a block's tile
  int32_t nearest_offset;  // in a tile: of its sites and marks
  int32_t marks_offset;
  int32_t length;
  int32_t lanes_log2;
  int32_t width;      // voxels of a row
  int32_t from_rows;  // the source is that of nearest_rows
  int32_t last;       // write positions
  int32_t key_bits;   // Keyed
  uint32_t key_absent;
  int32_t suits;      // 0, or 1 + the first spacing column that counts: only samples that suit the arithmetic
  int32_t column[3];  // spacing columns of this axis, of y among the places, and of x
  int32_t spacing_step;  // doubles between the rows of two groups
  float weight[3];       // by spacing column: float(spacing^2), unless at.spacing is set
  float scale;           // the spacing, at equal spacing; 0: leave the distances alone
  float move;            // not 0, and the last: `second` is a map, which moves by this times half a spacing
  float half[3];         // of the spacings by column, unless at.spacing is set
  int32_t first_column;  // that exists
  int32_t closed;        // foreground may be nearest to what is beyond the image
};

// A voxel on its line, and within the slice or row across it.
struct LinePlace {
  int p, y, x;
};

// Half the spacing across the face that the way from the nearest voxel, at this square, crosses: of the axis
// along which it is the most voxels away, of several the narrowest (dtkernels/remap.py).
__device__ inline float half_across(const NearestLines& params, int64_t group, const LinePlace& here,
                                    int site, uint32_t place, float square) {
  const int along = abs(site - here.p);
  const int y = abs(int(place >> 16) - here.y), x = abs(int(place & 0xffff) - here.x);
  const int most = larger(along, larger(y, x));
  float half = bits_to_float(0x7f800000u);
  if (along == most) half = half_spacing(params, group, params.column[0]);
  if (y == most) half = fminf(half, half_spacing(params, group, params.column[1]));
  if (x == most) half = fminf(half, half_spacing(params, group, params.column[2]));
  if (!params.closed) return half;
  bool within = true;
#pragma unroll 1
  for (int column = params.first_column; column < 3; ++column) {
    int at = 0, length = 1;  // of an axis that was dropped
    if (column == params.column[0]) {
      at = here.p;
      length = params.length;
    } else if (column == params.column[2]) {
      at = here.x;
      length = params.width;
    } else if (column == params.column[1]) {
      at = here.y;
      length = int(params.inner / params.width);
    }
    const float steps = float(smaller(at + 1, length - at));
    const float beyond = axis_weight(params, group, column) * (steps * steps);
    if (beyond < square || (within && beyond == square)) {
      within = false;
      square = beyond;
      half = half_spacing(params, group, column);
    }
  }
  return half;
}

template <typename Metric, bool kGlobal>
__global__ void __launch_bounds__(512, 2) nearest_lines(const __grid_constant__ NearestLines params) {
  using Cost = typename Metric::Cost;
  DTK_DYNAMIC_SHARED(uint64_t, dynamic_shared);  // for its alignment
  DTK_SHARED(uint32_t, finite, 1);
  unsigned char* storage =
      kGlobal ? static_cast<unsigned char*>(params.at.scratch) + blockIdx.x * params.scratch_stride
              : reinterpret_cast<unsigned char*>(dynamic_shared);
  Cost* value = reinterpret_cast<Cost*>(storage);
  const int lanes = 1 << params.lanes_log2;
  const int64_t tiles = (params.lines + lanes - 1) >> params.lanes_log2;  // per group
  const uint16_t* xs = static_cast<const uint16_t*>(params.at.source);
  const uint32_t* places = static_cast<const uint32_t*>(params.at.source);

  for (int64_t item = blockIdx.x; item < params.groups * tiles; item += gridDim.x) {
    const int64_t group = item / tiles;
    if (params.suits != 0) {
      const double* row = params.at.spacing + group * params.spacing_step;
      bool equal = true;
      for (int k = params.suits; k < 3; ++k) equal = equal && row[k] == row[k - 1];
      if (equal != Metric::kInteger) continue;
    }
    const Metric metric(params, group);
    ArgTile<Metric> tile{value,
                         reinterpret_cast<uint16_t*>(storage + params.nearest_offset),
                         reinterpret_cast<uint32_t*>(storage + params.marks_offset),
                         params.length,
                         params.lanes_log2,
                         0};
    const int lane = tile.lane();
    const int64_t in_group = (item % tiles << params.lanes_log2) + lane;
    const bool mine = in_group < params.lines;
    const int64_t line = group * params.lines + in_group;
    const int64_t within = line % params.inner;
    const int64_t start = line / params.inner * params.inner * params.length + within;
    const int x = int(within % params.width), y = int(within / params.width);
    const auto place_at = [&](int p) {
      const int64_t i = start + p * params.inner;
      if (!params.from_rows) return places[i];
      return xs[i] == kNoX ? kNoPlace : uint32_t(xs[i]);
    };

    if (threadIdx.x == 0) finite[0] = 0;
    __syncthreads();
    if (mine) {
      bool any = false;
      for (int p = tile.row(); p < params.length; p += tile.row_count()) {
        const uint32_t place = place_at(p);
        Cost square = metric.none();
        if (place != kNoPlace) {
          square = metric.square(int(place & 0xffff) - x, int(place >> 16) - y);
          any = true;
        }
        value[tile.at(p)] = metric.held(square, p);
      }
      if (any) atomicOr(&finite[0], 1u << lane);
    }
    __syncthreads();
    tile.active = finite[0];
    if (tile.active != 0) {
      tile.solve(metric);
      __syncthreads();
    }
    const auto square_at = [&](int p) {
      if (!tile.alive()) return metric.none();
      const int site = tile.nearest[tile.at(p)];
      return metric.square_of(value[tile.at(site)]) + metric.plain_steps(p - site);
    };
    // Of the minimisers of p the one whose place is the first by x, then y.
    const auto first_by_x = [&](int p) {
      const auto order_of = [&](int j) { return place_at(j) << 16 | place_at(j) >> 16; };
      int site = tile.nearest[tile.at(p)];
      const int last = p + 1 < params.length ? int(tile.nearest[tile.at(p + 1)]) : params.length - 1;
      const Cost square = square_at(p);
      for (int j = site + 1; j <= last; ++j) {
        if (metric.square_of(value[tile.at(j)]) + metric.plain_steps(p - j) == square &&
            order_of(j) < order_of(site))
          site = j;
      }
      return site;
    };
    if (mine) {
      for (int p = tile.row(); p < params.length; p += tile.row_count()) {
        const bool found = square_at(p) < metric.none();
        const bool to_face = params.move != 0.0f && !Metric::kInteger;
        const int site = !found ? p : to_face ? first_by_x(p) : int(tile.nearest[tile.at(p)]);
        const uint32_t place = found ? place_at(site) : kNoPlace;
        const int64_t to = start + p * params.inner;
        if (params.move != 0.0f && params.last) {
          const Cost square = square_at(p);
          if (square == Cost(0)) continue;  // of the other side
          const float half = Metric::kInteger
                                 ? half_spacing(params, group, params.column[2])
                                 : half_across(params, group, {p, y, x}, site, place, float(square));
          static_cast<float*>(params.at.second)[to] += params.move * half;
        } else if (!params.last) {
          static_cast<uint32_t*>(params.at.target)[to] = found ? uint32_t(site) << 16 | place : kNoPlace;
        } else {
          static_cast<int64_t*>(params.at.target)[to] =
              place == kNoPlace
                  ? -1
                  : site * params.inner + int64_t(place >> 16) * params.width + int64_t(place & 0xffff);
        }
      }
    }
    __syncthreads();
    if (Metric::kInteger && mine && params.last && params.scale != 0.0f) {
      for (int p = tile.row(); p < params.length; p += tile.row_count()) {
        const Cost square = square_at(p);
        static_cast<float*>(params.at.second)[start + p * params.inner] = Squares<int32_t>::finish(
            square < metric.none() ? uint32_t(square) : Exact::none(), false, params.scale);
      }
    }
    __syncthreads();  // the next tile overwrites this one
  }
}

}  // namespace dtk
