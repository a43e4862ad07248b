// Distance maps by a formula (formula.h), in place; the largest distance of every component; and the contour
// of a mask.
//
// Threads: a block takes chunks of kRemapChunk voxels of one image in turn, its threads neighbouring voxels.
// Bytes per voxel: the map in and out (8), a label in (4) where components have maxima of their own. The mask
// is read for voxels that may lie on the inner boundary alone: foreground no further from the background than
// one step along the widest axis. Nothing is read back: what an image adds to the formula, a block computes
// from the extrema that the transform's last pass has left. A contour takes the mask, whose neighbours the
// caches hold, and a byte out.
#pragma once
#include "evaluate.cuh"
#include "operands.cuh"

namespace dtk {

struct Remap {
  // source: labels (int32), or null; spacing: rows, or null; target: maps; second: per image two extrema,
  // then, if there are labels, `entries` maxima of components per image, number 0 of the background; image:
  // the mask.
  Operands at;
  int64_t images, chunks, voxels;  // chunks and voxels of an image
  int64_t entries;
  Formula formula;
  ImageSize size;
  int32_t inside;  // Inside
  int32_t inner_zero;
  int32_t closed;           // bit k: beyond axis k of (z, y, x) is background
  int32_t rows_per_sample;  // 1: a row of spacing per sample
  int32_t asks_extrema;
};

struct Contour {
  Operands at;  // image: the mask; target: uint8, 0 on its contour, 1 elsewhere
  int64_t images, chunks, voxels;
  int32_t connectivity;  // neighbours differ by at most 1 in each of at most this many coordinates
  int32_t closed;        // as above
};

constexpr int kRemapChunk = 4096;
constexpr int kRemapThreads = 256;
constexpr int kComponentRun = 16;  // voxels that a thread combines before it takes a maximum in memory

// What one image adds to the formula.
__device__ inline ImageScale image_scale(const Remap& params, const ImageSize& size, int64_t index) {
  const float* top = static_cast<const float*>(params.at.second) + 2 * index;
  return {params.asks_extrema ? __fsqrt_rn(top[0]) : 0.0f, params.asks_extrema ? __fsqrt_rn(top[1]) : 0.0f,
          size.spacing, size.diagonal};
}

// Where in its image a voxel is: 64-bit divisions for the first of a chunk, 32-bit ones for the others.
struct RemapPlace {
  int x, y, z;

  __device__ RemapPlace(const Image& image, int64_t voxel)
      : x(int(voxel % image.shape[4])),
        y(int(voxel / image.shape[4] % image.shape[3])),
        z(int(voxel / image.shape[4] / image.shape[3])) {}

  // `steps` voxels on.
  __device__ void advance(const Image& image, int steps) {
    const uint32_t width = uint32_t(image.shape[4]), height = uint32_t(image.shape[3]);
    uint32_t along = uint32_t(x + steps);
    x = int(along % width);
    along = uint32_t(y) + along / width;
    y = int(along % height);
    z += int(along / height);
  }

  __device__ int64_t offset(const Image& image) const {
    return z * image.stride[2] + y * image.stride[3] + x * image.stride[4];
  }
};

// Whether a foreground voxel, whose own offset is given, has a neighbour in the background, where neighbours
// differ in at most `connectivity` coordinates. Beyond an open image is no neighbour.
template <typename Params>
__device__ inline bool on_contour(const Params& params, int connectivity, const RemapPlace& place,
                                  int64_t offset, int64_t class_index) {
  const Image& image = params.at.image;
#pragma unroll 1
  for (int neighbour = 0; neighbour < 27; ++neighbour) {
    const int dz = neighbour / 9 - 1, dy = neighbour / 3 % 3 - 1, dx = neighbour % 3 - 1;
    const int differ = (dz != 0) + (dy != 0) + (dx != 0);
    if (differ == 0 || differ > connectivity) continue;
    const auto inside = [&](int at, int step, int axis) {
      return uint32_t(at + step) < uint32_t(image.shape[2 + axis]);
    };
    const int beyond = !inside(place.z, dz, 0)   ? 0
                       : !inside(place.y, dy, 1) ? 1
                       : !inside(place.x, dx, 2) ? 2
                                                 : 3;
    if (beyond < 3) {
      if (params.closed >> beyond & 1) return true;
      continue;
    }
    const int64_t other = offset + dz * image.stride[2] + dy * image.stride[3] + dx * image.stride[4];
    if (!foreground_at(image, other, class_index)) return true;
  }
  return false;
}

template <bool kComponents>
__global__ void __launch_bounds__(kRemapThreads) remap(const __grid_constant__ Remap params) {
  const Formula& f = params.formula;
  for (int64_t item = blockIdx.x; item < params.images * params.chunks; item += gridDim.x) {
    const int64_t index = item / params.chunks, first = item % params.chunks * kRemapChunk;
    const int64_t rest = params.voxels - first;
    const int count = rest < kRemapChunk ? int(rest) : kRemapChunk;
    const Image& mask = params.at.image;
    const double* row = params.at.spacing;
    if (row != nullptr && params.rows_per_sample) row += 3 * (index / mask.shape[1]);
    const ImageSize size = image_size(params.size, row);
    const ImageScale scale = image_scale(params, size, index);
    const int64_t class_index = index % mask.shape[1];
    const int64_t start = index / mask.shape[1] * mask.stride[0] + class_index * mask.stride[1];
    const RemapPlace origin(mask, first);
    const ImageFormula own = image_formula(f, scale);
    float* maps = static_cast<float*>(params.at.target) + index * params.voxels + first;
    const int32_t* labels =
        kComponents ? static_cast<const int32_t*>(params.at.source) + index * params.voxels + first : nullptr;
    const float* tops =
        static_cast<const float*>(params.at.second) + 2 * params.images + index * params.entries;
    const auto offset_of = [&](const RemapPlace& place) { return start + place.offset(mask); };
    const auto is_foreground_at = [&](int i) {
      RemapPlace place = origin;
      place.advance(mask, i);
      return foreground_at(mask, offset_of(place), class_index);
    };
    const auto is_edge = [&](int i) {
      RemapPlace place = origin;
      place.advance(mask, i);
      return on_contour(params, 1, place, offset_of(place), class_index);
    };
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kRemapThreads) {
      const float v = maps[i];
      const float d = fabsf(v);
      const int32_t label = kComponents ? labels[i] : 0;
      const bool inside = kComponents                  ? label > 0
                          : params.inside == kByMask   ? is_foreground_at(i)
                          : params.inside == kPositive ? v > 0
                                                       : v < 0;
      FormulaLine line = inside ? own.inside : own.outside;
      if (kComponents && inside) line = component_line(f, tops[label], scale);
      float value = formula_value(f, line, d);
      if (d == bits_to_float(0x7f800000u)) value = inside ? own.full : own.empty;
      if (params.inner_zero && inside && d <= size.widest && is_edge(i)) value = f.edge;
      maps[i] = value;
    }
  }
}

template <typename Byte>
__global__ void __launch_bounds__(kRemapThreads) contour(const __grid_constant__ Contour params) {
  const Image& mask = params.at.image;
  for (int64_t item = blockIdx.x; item < params.images * params.chunks; item += gridDim.x) {
    const int64_t index = item / params.chunks, first = item % params.chunks * kRemapChunk;
    const int64_t rest = params.voxels - first, class_index = index % mask.shape[1];
    const int count = rest < kRemapChunk ? int(rest) : kRemapChunk;
    const int64_t start = index / mask.shape[1] * mask.stride[0] + class_index * mask.stride[1];
    const RemapPlace origin(mask, first);
    Byte* out = static_cast<Byte*>(params.at.target) + index * params.voxels + first;
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kRemapThreads) {
      RemapPlace place = origin;
      place.advance(mask, i);
      const int64_t offset = start + place.offset(mask);
      const bool inner = foreground_at(mask, offset, class_index);
      out[i] = !inner || !on_contour(params, params.connectivity, place, offset, class_index) ? 1 : 0;
    }
  }
}

// The largest finite distance of every component, taken by maximum into zeros. A thread combines neighbours
// along x first, and asks memory whether its value would change anything: most do not.
template <typename Label>
__global__ void __launch_bounds__(kRemapThreads) component_maxima(const __grid_constant__ Remap params) {
  const int64_t runs = (params.voxels + kComponentRun - 1) / kComponentRun, all = params.images * runs;
  const int64_t stride = int64_t(gridDim.x) * kRemapThreads;
  for (int64_t item = int64_t(blockIdx.x) * kRemapThreads + threadIdx.x; item < all; item += stride) {
    const int64_t index = item / runs, first = item % runs * kComponentRun;
    const float* maps = static_cast<const float*>(params.at.target) + index * params.voxels;
    const Label* labels = static_cast<const Label*>(params.at.source) + index * params.voxels;
    uint32_t* tops = static_cast<uint32_t*>(params.at.second) + 2 * params.images + index * params.entries;
    Label current = 0;
    uint32_t top = 0;
    const auto hand_over = [&] {
      if (current > 0 && top > tops[current]) atomicMax(tops + current, top);
    };
    for (int64_t i = first; i < first + kComponentRun && i < params.voxels; ++i) {
      const Label label = labels[i];
      if (label != current) {
        hand_over();
        current = label;
        top = 0;
      }
      union {
        float value;
        uint32_t bits;
      } d{fabsf(maps[i])};
      if (label > 0 && d.bits < 0x7f800000u && d.bits > top) top = d.bits;
    }
    hand_over();
  }
}

}  // namespace dtk
