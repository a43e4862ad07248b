// The feature transform: per voxel the nearest background voxel, and of several equally near the lowest in
// raster order.
//
//   mask -> runs -> nearest x in the row -> lanes along x, solve y -> solve z -> distance and position
//
// Ties. Let the passes take x first, y next and z last, and let each take the lowest position among its exact
// minimisers. Then the voxel found is the lowest in raster order of all the nearest, by induction over the
// axes: call a set of sites R(z') those of slice z' that are nearest to (y, x) within the slice. The sites
// nearest to (z, y, x) are the union of R(z') over the minimisers z' of the z axis, since all of R(z') lie at
// the same distance. In raster order all of R(z') precede all of R(z' + 1), so the first site of the union is
// the first of R(z') for the lowest minimiser z'; and the first of R(z') is what the y pass found in slice
// z', by the same argument one axis down. (Any other order would have to carry the positions along and
// compare them: after z, y, x, the lowest x among ties belongs to the last voxel's column, not to the lowest
// index.)
//
// The lowest minimiser is free where a square and a position share 31 bits: with h'(j) = h(j) 2^b + j and the
// costs w' = 2^b, all candidates at p are distinct integers, the smallest is that of the smallest square and,
// among those, of the lowest j. That is a line of squares like any other to the solver of the distance
// transform, for it holds for any h; D and j are read off its result. Volumes up to 837^3 and images up to
// 1024^2 fit, at equal spacing. Other axes go through arg_solver.h.
//
// At unequal spacing squares are float32 sums ((x + y) + z) of the rounded w_k k^2, as in the distance
// transform but for the order of addition, and a tie is an equality of those. The distances themselves are
// left to the distance transform, so that both functions give the same bits.
#pragma once
#include "arg_solver.h"
#include "row_passes.h"
#include "runs.h"
#include "slice.h"

namespace dtk::cpu::DTK_ISA {

constexpr uint16_t kNoneInRow = 0xffff;
constexpr uint32_t kNoPlace = ~0u;

inline Vec count_up(uint32_t from) {
  uint32_t values[kLanes];
  for (int i = 0; i < kLanes; i++) values[i] = from + uint32_t(i);
  return load(values);
}

// --- Workspace of one thread ---

struct NearestWorkspace {
  uint32_t *in, *out, *arg;  // lines of the longer axis
  LineScratch line;          // unsigned: one class
  void* landmarks;           // of an ArgSolver
  uint64_t* words;           // one row of the mask, as bits
  uint8_t* bytes;            // and as bytes
};

inline uintptr_t lay_out_nearest(int depth, int height, int width, uintptr_t base, NearestWorkspace& ws) {
  const int n = round_up(height > depth ? height : depth, kLanes);
  const auto take = [&base](auto*& array, size_t bytes) {
    array = reinterpret_cast<decltype(+array)>(base);
    base += (bytes + 63) / 64 * 64;
  };
  take(ws.in, size_t(n) * sizeof(Vec));
  take(ws.out, size_t(n) * sizeof(Vec));
  take(ws.arg, size_t(n) * sizeof(Vec));
  take(ws.line.landmarks[0], size_t(n / 16 + 2) * sizeof(Landmark));
  take(ws.line.wanted[0], size_t(n / 16 + 2) * sizeof(int));
  take(ws.line.kind, size_t(n / 16 + 2));
  ws.line.landmarks[1] = nullptr;
  ws.line.wanted[1] = nullptr;
  char* landmarks;
  take(landmarks, size_t(n / 16 + 2) * sizeof(ArgSolver<ExactSquares>::Landmark));
  ws.landmarks = landmarks;
  take(ws.words, size_t(words_for(width)) * 8);
  take(ws.bytes, size_t(width));
  return base;
}

inline size_t nearest_workspace(int depth, int height, int width) {
  NearestWorkspace ws;
  return size_t(lay_out_nearest(depth, height, width, 0, ws));
}

inline NearestWorkspace nearest_workspace_at(const NearestTask& task, char* base) {
  NearestWorkspace ws;
  lay_out_nearest(task.depth, task.height, task.width, reinterpret_cast<uintptr_t>(base), ws);
  return ws;
}

// --- x axis ---

// One cache line more than needed, so that the rows of a tile do not all map to the same few sets of the
// cache.
inline int near_x_pitch(int width) { return round_up(width, kLanes) + 32; }
inline size_t near_x_size(int height, int width) {
  return size_t(height) * size_t(near_x_pitch(width)) * sizeof(uint16_t);
}

// Many short runs: two scans, in arithmetic that no compiler turns into branches (which would cost three
// times as much on noise). The choice between two sides is a minimum over (distance, is right, position).
inline void scan_dense_row(const uint64_t* words, int width, uint16_t* near_x) {
  const auto foreground_mask = [words](int x) { return ~uint64_t(0) * (words[x >> 6] >> (x & 63) & 1); };
  uint64_t left = kNoneInRow;
  for (int x = 0; x < width; x++) {
    const uint64_t mask = foreground_mask(x);
    left = (left & mask) | (uint64_t(x) & ~mask);
    near_x[x] = uint16_t(left);
  }
  constexpr uint64_t kIsRight = 1 << 16, kDistance = 1 << 17;
  uint64_t right = 3 * kNoneInRow;
  for (int x = width - 1; x >= 0; x--) {
    const uint64_t mask = foreground_mask(x), at = uint64_t(x);
    right = (right & mask) | (at & ~mask);
    left = near_x[x];
    // No left side: at - 65535 as 17 bits is above 65535, farther than any right side but "none".
    const uint64_t by_left = ((at - left) & 0x1ffff) * kDistance + left;
    const uint64_t by_right = (right - at) * kDistance + kIsRight + (right & 0xffff);
    near_x[x] = uint16_t(by_left < by_right ? by_left : by_right);
  }
}

// Background is its own nearest; a run of foreground belongs to its left neighbour up to and with the middle.
inline void scan_row(const uint64_t* words, int width, int pitch, uint16_t* __restrict near_x) {
  for (int x = 0; x < pitch; x++) near_x[x] = uint16_t(x);  // lanes past the end count as background
  if (count_runs(words, width) > width / 16) return scan_dense_row(words, width, near_x);
  for_each_run(words, width, [=](int begin, int end) {
    const int left = begin - 1, right = end;
    const int middle = right == width ? (left < 0 ? -1 : end) : left < 0 ? begin : (left + right) / 2 + 1;
    if (middle < 0) {
      for (int x = begin; x < end; x++) near_x[x] = kNoneInRow;
      return;
    }
    for (int x = begin; x < middle; x++) near_x[x] = uint16_t(left);
    for (int x = middle; x < end; x++) near_x[x] = uint16_t(right);
  });
}

inline void scan_rows(const NearestTask& task, int z, int y0, int y1, char* workspace, uint16_t* near_x) {
  const NearestWorkspace ws = nearest_workspace_at(task, workspace);
  const int64_t* stride = task.image.stride + 2;
  const int pitch = near_x_pitch(task.width);
  for (int y = y0; y < y1; y++) {
    pack_row(task.image, task.offset + z * stride[0] + y * stride[1], stride[2], task.width, ws.bytes,
             ws.words, task.class_index);
    scan_row(ws.words, task.width, pitch, near_x + int64_t(y) * pitch);
  }
}

// --- y and z axes, for one arithmetic ---

template <class Arithmetic>
struct NearestPass {
  static Vec none() { return broadcast(Arithmetic::kNone); }

  // What an axis finds for one row of 16 lanes.
  struct Found {
    Vec square, at;  // kNone in lanes without any site
  };

  // A value as the solver of an axis takes it: squares, with the position below where it fits.
  static Vec prepare(const ArgAxis& axis, const Vec& square, int position) {
    if (axis.bits < 0) return square;
    const Vec packed = shift_left(square, axis.bits) + broadcast(uint32_t(position));
    return select(equal(square, none()), none(), packed);
  }

  static void solve(const ArgAxis& axis, uint32_t* in, int n, const NearestWorkspace& ws) {
    if (axis.bits >= 0) {
      LineSolver<ExactSquares, false>(axis.cost, ws.line).solve(in, n, ws.out);
    } else {
      using Solver = ArgSolver<Arithmetic>;
      Solver(axis.cost, static_cast<typename Solver::Landmark*>(ws.landmarks)).solve(in, n, ws.out, ws.arg);
    }
  }

  static Found found(const ArgAxis& axis, int p, const NearestWorkspace& ws) {
    const Vec v = load(ws.out + size_t(p) * kLanes);
    if (axis.bits < 0) return {v, load(ws.arg + size_t(p) * kLanes)};
    const Vec absent = broadcast(uint32_t(ExactSquares::kNone));
    const Mask dead = equal(v, absent);
    return {select(dead, absent, shift_right(v, axis.bits)),
            select(dead, broadcast(0u), v & broadcast((1u << axis.bits) - 1))};
  }

  static void do_columns(const NearestTask& task, int z, int tile, const NearestWorkspace& ws,
                         const uint16_t* near_x) {
    const int n = task.height, x = tile * kLanes, pitch = near_x_pitch(task.width);
    const int64_t tiles = round_up(task.width, kLanes) / kLanes;
    const Vec own = count_up(uint32_t(x)), weight = broadcast(task.x_weight);
    const uint16_t* columns = near_x + x;
    const Vec past = first_lanes(task.width - x) ^ broadcast(~0u);  // these lanes count as background
    Vec foreground = broadcast(0u), nearest = none();
    for (int y = 0; y < n; y++) {
      const Vec at = widen(columns + int64_t(y) * pitch);
      const Vec square = select(equal(at, broadcast(uint32_t(kNoneInRow))), none(),
                                Arithmetic::square(subtract(at, own), weight));
      foreground = foreground | (at ^ own);
      nearest = min_unsigned(nearest, square | past);
      store(ws.in + size_t(y) * kLanes, prepare(task.y, square, y));
    }
    const bool busy = max_of_lanes(foreground) != 0;
    const bool alive = !all_equal(nearest, Arithmetic::kNone);  // else the slice is all foreground
    if (busy && alive) solve(task.y, ws.in, n, ws);

    for (int y = 0; y < n; y++) {
      const int64_t row = (int64_t(y) * tiles + tile) * task.depth + z;
      const Found f =
          busy && alive ? found(task.y, y, ws) : Found{busy ? none() : broadcast(0u), broadcast(uint32_t(y))};
      const bool row_busy = busy && max_of_lanes(f.square) != 0;
      if (task.depth > 1) task.busy[row] = row_busy;
      if (task.depth > 1 && !row_busy) continue;
      const Vec place = shift_left(f.at, 16) | (row_busy ? near_x_of(columns, pitch, y, f.at) : own);
      if (task.depth == 1) {
        emit(task, 0, y, x, f.square, broadcast(0u), place);
      } else {
        store(task.places + row * kLanes, select(equal(f.square, none()), broadcast(kNoPlace), place));
      }
    }
  }

  // Lane by lane from the row that `at` says, which is often the row itself.
  static Vec near_x_of(const uint16_t* columns, int pitch, int y, const Vec& at) {
    if (all_equal(at, uint32_t(y))) return widen(columns + int64_t(y) * pitch);
    uint32_t rows[kLanes], result[kLanes];
    store(rows, at);
    for (int i = 0; i < kLanes; i++) result[i] = columns[int64_t(rows[i]) * pitch + i];
    return load(result);
  }

  static bool all_equal(const Vec& a, uint32_t value) { return max_of_lanes(a ^ broadcast(value)) == 0; }

  static void do_depth(const NearestTask& task, int y, int tile, const NearestWorkspace& ws) {
    const int n = task.depth, x = tile * kLanes;
    const int64_t tiles = round_up(task.width, kLanes) / kLanes;
    const int64_t start = (int64_t(y) * tiles + tile) * n;
    const uint8_t* busy = task.busy + start;
    uint32_t* places = task.places + start * kLanes;
    const Vec zero = broadcast(0u), own_x = count_up(uint32_t(x)), own_y = broadcast(uint32_t(y));
    const Vec own = shift_left(own_y, 16) | own_x;
    const Vec x_weight = broadcast(task.x_weight), y_weight = broadcast(task.y_weight);
    bool any_busy = false;
    for (int z = 0; z < n; z++) any_busy = any_busy || busy[z];
    bool alive = false;  // the image is not all foreground
    if (any_busy) {
      Vec nearest = none();
      for (int z = 0; z < n; z++) {  // squares follow from places
        Vec square = zero;
        if (busy[z]) {
          const Vec place = load(places + size_t(z) * kLanes);
          const Vec from_x = subtract(place & broadcast(0xffffu), own_x);
          const Vec from_y = subtract(shift_right(place, 16), own_y);
          square =
              Arithmetic::add(Arithmetic::square(from_x, x_weight), Arithmetic::square(from_y, y_weight));
          square = select(equal(place, broadcast(kNoPlace)), none(), square);
        } else {
          store(places + size_t(z) * kLanes, own);
        }
        nearest = min_unsigned(nearest, square);
        store(ws.in + size_t(z) * kLanes, prepare(task.z, square, z));
      }
      alive = !all_equal(nearest, Arithmetic::kNone);
      if (alive) solve(task.z, ws.in, n, ws);
    }
    for (int z = 0; z < n; z++) {
      if (!busy[z]) {
        emit(task, z, y, x, zero, broadcast(uint32_t(z)), own);
        continue;
      }
      const Found f = alive ? found(task.z, z, ws) : Found{none(), broadcast(uint32_t(z))};
      Vec place;
      if (all_equal(f.at, uint32_t(z))) {
        place = load(places + size_t(z) * kLanes);
      } else {
        uint32_t slices[kLanes], chosen[kLanes];
        store(slices, f.at);
        for (int i = 0; i < kLanes; i++) chosen[i] = places[slices[i] * size_t(kLanes) + i];
        place = load(chosen);
      }
      emit(task, z, y, x, f.square, f.at, place);
    }
  }

  // Sixteen voxels of the result, or as many as there are left in the row.
  static void emit(const NearestTask& task, int z, int y, int x, const Vec& square, const Vec& slice,
                   const Vec& place) {
    const int count = smaller(kLanes, task.width - x);
    const int64_t plane = int64_t(task.height) * task.width;
    const int64_t at = z * plane + int64_t(y) * task.width + x;
    int64_t* index = task.index + at;
    float* distance = task.distance ? task.distance + at : nullptr;
    const bool stream =
        task.streaming && count == kLanes &&
        ((reinterpret_cast<uintptr_t>(index) | reinterpret_cast<uintptr_t>(distance)) & 63) == 0;
    if (distance) {
      const Vec v = finish<Arithmetic, false>(square, false, broadcast(task.scale));
      if (stream) {
        store_streaming(distance, v);
      } else if (count == kLanes) {
        store(distance, v);
      } else {
        store_some(distance, v, count);
      }
    }
    const Vec absent = broadcast(~0u);
    const Mask dead = equal(square, none());
    alignas(64) int64_t positions[kLanes];
    if (plane * task.depth <= 0x7fffffff) {
      const Vec in_slice =
          shift_right(place, 16) * broadcast(uint32_t(task.width)) + (place & broadcast(0xffffu));
      const Vec flat = select(dead, absent, slice * broadcast(uint32_t(plane)) + in_slice);
      alignas(64) int32_t narrow[kLanes];
      store(reinterpret_cast<uint32_t*>(narrow), flat);
      for (int i = 0; i < kLanes; i++) positions[i] = narrow[i];
    } else {
      uint32_t slices[kLanes], places[kLanes];
      store(slices, slice);
      store(places, select(dead, absent, place));
      for (int i = 0; i < kLanes; i++) {
        positions[i] = places[i] == ~0u ? -1
                                        : int64_t(slices[i]) * plane + int64_t(places[i] >> 16) * task.width +
                                              int64_t(places[i] & 0xffffu);
      }
    }
    if (stream) {
      constexpr int kHalf = kLanes / 2;
      for (int i = 0; i < kLanes; i += kHalf) {
        Vec half;
        memcpy(&half, positions + i, sizeof half);
        store_streaming(reinterpret_cast<float*>(index + i), half);
      }
    } else if (count == kLanes) {
      memcpy(index, positions, sizeof positions);
    } else {
      memcpy(index, positions, size_t(count) * sizeof(int64_t));
    }
  }
};

inline void nearest_columns(const NearestTask& task, int z, int tile, char* workspace,
                            const uint16_t* near_x) {
  const NearestWorkspace ws = nearest_workspace_at(task, workspace);
  if (task.exact) {
    NearestPass<ExactSquares>::do_columns(task, z, tile, ws, near_x);
  } else {
    NearestPass<RoundedSquares>::do_columns(task, z, tile, ws, near_x);
  }
}

inline void nearest_depth(const NearestTask& task, int y, int tile, char* workspace) {
  const NearestWorkspace ws = nearest_workspace_at(task, workspace);
  if (task.exact) {
    NearestPass<ExactSquares>::do_depth(task, y, tile, ws);
  } else {
    NearestPass<RoundedSquares>::do_depth(task, y, tile, ws);
  }
}

constexpr NearestPasses nearest_table() {
  return {nearest_workspace, near_x_size, scan_rows, nearest_columns, nearest_depth, stream_fence};
}

}  // namespace dtk::cpu::DTK_ISA
