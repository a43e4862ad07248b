// A tile: up to 32 whole lines of the image, one per lane, on which a solver finds for every voxel p the
// site j that minimises
//
//   D(p) = min_j  offer(value(j), sign(p)) + w (p - j)^2.
//
// One sweep serves both signs: a voxel of the other class offers 0, so nothing beyond the end of p's run
// of equal class can win, and a signed transform costs no more than an unsigned one.
//
// A solver is a type with
//   static constexpr int kArrays;          // arrays of sites it needs per voxel; `nearest` is the first
//   static constexpr int kBytesPerThread;  // of shared memory at tile.per_thread
//   static constexpr bool kInPlace;        // leaves signed minima in `value`, otherwise sites in `nearest`
//   template <bool kSigned, ...> static __device__ void solve(tile, squares);
// All threads of the block call solve() after a barrier; it solves the active lanes, and the caller waits at
// a barrier before it reads the result. What wins a tie is not specified, but does not depend on the order
// in which threads run.
#pragma once
#include "squares.cuh"

namespace dtk {

// Values: what holds them, a pointer or something that can be used like one (split.cuh).
template <typename Value, typename Site, typename Values = Value*>
struct Tile {
  Values value;      // value of voxel p of a lane at [at(p, lane)]
  Site* nearest;     // its best site at [p * site_pitch + lane]
  void* per_thread;  // shared memory of the solver
  int length;        // voxels per line
  int pitch;
  int lane_pitch;
  int site_pitch;
  int lanes_log2;
  uint32_t active;  // bits: lanes that have a site and something to solve
  int thread;       // of the threads that work on this tile: the block's, or a group of them
  int threads;

  __device__ int lanes() const { return 1 << lanes_log2; }
  __device__ int at(int p, int lane) const { return p * pitch + lane * lane_pitch; }
  __device__ int lane() const { return thread & (lanes() - 1); }
  // The tile's threads as rows of lanes: row() of row_count().
  __device__ int row() const { return thread >> lanes_log2; }
  __device__ int row_count() const { return threads >> lanes_log2; }
  __device__ bool lane_active(int lane) const { return (active >> lane & 1) != 0; }

  // Signed minimum at voxel p.
  template <typename Solver, bool kSigned>
  __device__ Value solved(int p, int lane, const Squares<Value>& squares) const {
    const Value own = value[at(p, lane)];
    if (Solver::kInPlace || !lane_active(lane)) return own;
    const int j = nearest[p * site_pitch + lane];
    const Value sign = Squares<Value>::negative(own) ? Value(-1) : Value(1);
    const auto site = Squares<Value>::template offer<kSigned>(value[at(j, lane)], sign);
    return Squares<Value>::with_sign(site + squares.steps(Value(p - j)), sign);
  }
};

}  // namespace dtk
