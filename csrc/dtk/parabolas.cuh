// One axis of an envelope, E(p) = min over j of f(j) + w (p - j)^2 and the lowest j that attains it, for any
// f: the passes run along x, y, z in turn. csrc/cpu/parabola_solver.h derives what is used here: the window
// of p, the monotone minimisers, and the slack that makes the result that of a search over all j, bit for
// bit.
//
// The data is (outer, n, inner), contiguous but for the image that the first pass reads; line number l runs
// through
//   (l / inner) * n * inner + l % inner + p * inner,   p = 0 .. n - 1.
// A block holds `lanes` neighbouring lines in shared memory and works in three steps: every 8th voxel of a
// line is a landmark, placed by bisection between its neighbours (one thread a landmark and lane, a barrier
// per level); then every voxel searches between the landmarks around it, independent of all others. Lines
// whose windows are short need no landmarks.
//
// Threads: lane = thread % lanes in all steps, but along contiguous lines (inner == 1) voxels are loaded and
// searched with consecutive threads on consecutive voxels; pitch lanes + 1 then keeps columns on different
// banks.
//
// Bytes per voxel: values twice, and, where asked for, the position once and that of the earlier axes once.
// Values and positions go from one buffer to another, so that a line can be read while others are written:
// lines too long for shared memory are searched where they lie (kShared = false).
#pragma once
#include "operands.cuh"
#include "squares.cuh"

namespace dtk {

struct Parabolas {
  // source: values after the earlier axes, none in the first pass; target: values; second: positions, or
  // null; scratch: positions after the earlier axes.
  Operands at;
  int64_t groups;                             // of lines with the same weight
  int64_t lines;                              // per group
  int64_t inner;                              // elements between voxels of a line, and positions
  double weight;                              // spacing^2, unless at.spacing is set
  int64_t landmarks_offset, partials_offset;  // in shared memory
  int32_t length;                             // n
  int32_t lanes_log2;
  int32_t pitch;         // of the tile
  int32_t first;         // reads the image
  int32_t column;        // of the spacing
  int32_t spacing_step;  // doubles between the rows of two groups
};

template <typename T>
struct Real;
template <>
struct Real<float> {
  __device__ static float infinity() { return __int_as_float(0x7f800000); }
  __device__ static float unit() { return 5.9604644775390625e-8f; }  // 2^-24
  __device__ static float square_root(float x) { return __fsqrt_rn(x); }
};
template <>
struct Real<double> {
  __device__ static double infinity() { return double(Real<float>::infinity()); }
  __device__ static double unit() { return 1.1102230246251565e-16; }  // 2^-53
  __device__ static double square_root(double x) { return __dsqrt_rn(x); }
};

// A line of the tile or of global memory. A NaN of the image is no site.
template <typename T>
struct Line {
  const T* base;
  int64_t step;
  __device__ T operator[](int j) const {
    const T v = base[j * step];
    return v == v ? v : Real<T>::infinity();
  }
};

// What bounds the search on a line with minimum m.
template <typename T>
struct Bounds {
  T base, slack, weight;
  int length;
  bool alive, bounded;  // there is a site; its sums are far from the end of the range

  __device__ Bounds(T m, T w, int n) : weight(w), length(n) {
    const T spread = T(2) * w * T(n - 1) * T(n - 1);
    slack = T(32) * Real<T>::unit() * ((m < T(0) ? -m : m) + spread);
    base = m - slack;
    alive = m < Real<T>::infinity();
    bounded = slack < Real<T>::infinity();
  }
  // How far from a voxel of this value a better site can lie.
  __device__ int reach(T value) const {
    if (!bounded) return length;
    const T k = Real<T>::square_root((value - base) / weight) * T(1.00001);
    return k < T(length) ? int(k) : length;
  }
  __device__ T sum(const Line<T>& f, int j, int p) const { return f[j] + weight * T((p - j) * (p - j)); }
};

constexpr int kLandmarkStep = 8;
constexpr int kNearReach = 3;  // lines whose windows are all this short need no landmarks
constexpr int kNarrowInterval = 8;

template <typename T>
struct Landmarks {
  uint16_t* lo;  // of landmark i and a lane at [i * lanes + lane]
  uint16_t* hi;
  int lanes_log2;

  __device__ int at(int i, int lane) const { return (i << lanes_log2) + lane; }

  // Landmark i between the sites lo and hi: the first and the last whose sum is near its least.
  __device__ void place(const Line<T>& f, const Bounds<T>& bounds, int lane, int i, int p, int low,
                        int high) {
    if (bounds.bounded) {
      const int k = bounds.reach(f[p]);
      low = larger(low, p - k);
      high = smaller(high, p + k);
      if (high - low > kNarrowInterval) {
        T best = Real<T>::infinity();
        for (int j = low; j <= high; ++j) best = smaller(best, bounds.sum(f, j, p));
        DTK_COUNT(candidates, high - low + 1);
        const T limit = best + bounds.slack;
        while (low < high && !(bounds.sum(f, low, p) <= limit)) ++low;
        while (low < high && !(bounds.sum(f, high, p) <= limit)) --high;
      }
    }
    lo[at(i, lane)] = uint16_t(low);
    hi[at(i, lane)] = uint16_t(high);
  }

  // All landmarks of a lane; the block's threads take every row_count-th of a level from `row` on.
  __device__ void place_all(const Line<T>& f, const Bounds<T>& bounds, int lane, bool active, int row,
                            int row_count) {
    const int n = bounds.length, last = (n + kLandmarkStep - 1) / kLandmarkStep;
    if (active) {
      for (int end = row; end < 2; end += row_count)
        place(f, bounds, lane, end * last, end * (n - 1), 0, n - 1);
    }
    __syncthreads();
    int span = 1;
    while (2 * span < last) span *= 2;
    for (; span >= 1; span /= 2) {
      for (int i = span * (2 * row + 1); active && i < last; i += 2 * span * row_count) {
        const int low = lo[at(i - span, lane)], high = hi[at(smaller(i + span, last), lane)];
        place(f, bounds, lane, i, i * kLandmarkStep, low, high);
      }
      __syncthreads();
    }
  }
};

template <typename T, bool kShared>
__global__ void __launch_bounds__(256, 4) parabolas(const __grid_constant__ Parabolas params) {
  DTK_DYNAMIC_SHARED(uint64_t, dynamic_shared);  // for its alignment
  DTK_SHARED(int64_t, line_start, 32);           // of the source
  DTK_SHARED(T, lowest, 32);
  DTK_SHARED(T, highest, 32);
  unsigned char* shared = reinterpret_cast<unsigned char*>(dynamic_shared);
  T* tile = reinterpret_cast<T*>(shared);
  T* partials = reinterpret_cast<T*>(shared + params.partials_offset);
  const int n = params.length, lanes = 1 << params.lanes_log2;
  const int own_lane = int(threadIdx.x) & (lanes - 1), row = int(threadIdx.x) >> params.lanes_log2;
  const int row_count = int(blockDim.x) >> params.lanes_log2;
  uint16_t* marks = reinterpret_cast<uint16_t*>(shared + params.landmarks_offset);
  Landmarks<T> landmarks{marks, marks + (((n + kLandmarkStep - 1) / kLandmarkStep + 1) << params.lanes_log2),
                         params.lanes_log2};

  const Image& image = params.at.image;
  const T* source = static_cast<const T*>(params.first ? image.data : params.at.source);
  const int64_t step = params.first ? image.stride[4] : params.inner;
  const int64_t tiles = (params.lines + lanes - 1) >> params.lanes_log2;  // per group
  const bool along_rows = params.inner == 1;

  for (int64_t item = blockIdx.x; item < params.groups * tiles; item += gridDim.x) {
    const int64_t group = item / tiles;
    const int64_t first = group * params.lines + (item % tiles << params.lanes_log2);
    const int count = int(smaller(int64_t(lanes), (group + 1) * params.lines - first));
    double weight = params.weight;
    if (params.at.spacing != nullptr) {
      const double s = params.at.spacing[group * params.spacing_step + params.column];
      weight = s * s;
    }
    if (int(threadIdx.x) < count) {
      const int64_t l = first + int(threadIdx.x);
      if (params.first) {
        const int64_t slow = l / image.shape[3], c = slow / image.shape[2];
        line_start[threadIdx.x] =
            c / image.shape[1] * image.stride[0] + c % image.shape[1] * image.stride[1] +
            slow % image.shape[2] * image.stride[2] + l % image.shape[3] * image.stride[3];
      } else {
        line_start[threadIdx.x] = l / params.inner * n * params.inner + l % params.inner;
      }
    }
    __syncthreads();

    // Voxel e of the tile: along contiguous lines neighbours are of one line, otherwise of neighbouring
    // lines.
    const auto lane_of = [&](int e) { return along_rows ? e / n : e & (lanes - 1); };
    const auto voxel_of = [&](int e) { return along_rows ? e % n : e >> params.lanes_log2; };
    const auto line = [&](int lane) {
      return kShared ? Line<T>{tile + lane, params.pitch} : Line<T>{source + line_start[lane], step};
    };
    const int total = along_rows ? count * n : n << params.lanes_log2;
    if (kShared) {
      // Several reads are issued before the first is used, wherever they lead, so that one latency covers
      // them.
      constexpr int kBatch = 4;
      for (int e = int(threadIdx.x); e < total; e += kBatch * int(blockDim.x)) {
        T v[kBatch];
        int to[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const int from = smaller(e + i * int(blockDim.x), total - 1);
          const int lane = lane_of(from), p = voxel_of(from);
          v[i] = Line<T>{source + line_start[smaller(lane, count - 1)], step}[p];
          to[i] = e + i * int(blockDim.x) < total && lane < count ? p * params.pitch + lane : -1;
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          if (to[i] >= 0) tile[to[i]] = v[i];
      }
      __syncthreads();
    }

    // The least and the greatest value of every line.
    if (own_lane < count) {
      const Line<T> f = line(own_lane);
      T low = Real<T>::infinity(), high = -low;
      for (int p = row; p < n; p += row_count) {
        const T v = f[p];
        low = smaller(low, v);
        high = larger(high, v);
      }
      partials[threadIdx.x] = low;
      partials[blockDim.x + threadIdx.x] = high;
    }
    __syncthreads();
    if (int(threadIdx.x) < count) {
      T low = Real<T>::infinity(), high = -low;
      for (int i = int(threadIdx.x); i < int(blockDim.x); i += lanes) {
        low = smaller(low, partials[i]);
        high = larger(high, partials[blockDim.x + i]);
      }
      lowest[threadIdx.x] = low;
      highest[threadIdx.x] = high;
    }
    __syncthreads();

    bool far = false;
    if (own_lane < count) {
      const Bounds<T> bounds(lowest[own_lane], T(weight), n);
      far = bounds.alive && bounds.reach(highest[own_lane]) > kNearReach;
    }
    const bool placed = __syncthreads_or(far) != 0;
    if (placed) {
      const int lane = smaller(own_lane, count - 1);
      landmarks.place_all(line(lane), Bounds<T>(lowest[lane], T(weight), n), lane, far, row, row_count);
    }

    T* values = static_cast<T*>(params.at.target);
    int64_t* positions = static_cast<int64_t*>(params.at.second);
    const int64_t* earlier = static_cast<const int64_t*>(params.at.scratch);
    for (int e = int(threadIdx.x); e < total; e += int(blockDim.x)) {
      const int lane = lane_of(e), p = voxel_of(e);
      if (lane >= count) continue;
      const int64_t l = first + lane;
      const int64_t start = along_rows ? l * n : l / params.inner * n * params.inner + l % params.inner;
      const Line<T> f = line(lane);
      const Bounds<T> bounds(lowest[lane], T(weight), n);
      T best = Real<T>::infinity();
      int site = -1;
      if (bounds.alive) {
        const int k = bounds.reach(f[p]), i = p / kLandmarkStep;
        int low = larger(0, p - k), high = smaller(n - 1, p + k);
        if (bounds.reach(highest[lane]) > kNearReach) {
          low = larger(low, int(landmarks.lo[landmarks.at(i, lane)]));
          high = smaller(high, int(landmarks.hi[landmarks.at(i + 1, lane)]));
        }
        DTK_COUNT(candidates, high - low + 1);
        for (int j = low; j <= high; ++j) {
          const T sum = bounds.sum(f, j, p);
          if (sum < best) {
            best = sum;
            site = j;
          }
        }
      }
      values[start + p * params.inner] = best;
      if (positions != nullptr) {
        const int64_t within = params.first || site < 0 ? 0 : earlier[start + site * params.inner];
        positions[start + p * params.inner] = site < 0 ? -1 : within + site * params.inner;
      }
    }
    __syncthreads();  // the next tile overwrites this one
  }
}

}  // namespace dtk
