// Planted bugs: what the emulator promises to find. Every kernel has a template parameter BUG; with false it
// is right, and must pass in every mode, with true it has the one bug that its comment names. The table of
// what finds which is in tests/test_emulator.py.
//
//     bugs NAME       runs a bug and prints "NAME: " and "right", "wrong", or the error of the launch
//     bugs NAME again runs the bug twice, then the right variant: a failed launch must leave no traces
//     bugs --clean    runs all the right variants
//     bugs --order    prints in which order the threads of a launch ran
//     bugs            lists the names
//
// To add a bug: a kernel here, a case below it that says whether the result is right, and a row in the table.
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "dtk/config.h"

// Not anonymous: the runtime finds only exported kernels' names.
namespace bugs {

struct Parameters {
  const int* in;
  int* out;
  int n;
};

constexpr int kThreads = 128;

void check(cudaError_t error) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error));
}

template <typename P>
void launch(void (*kernel)(P), dim3 grid, dim3 block, size_t shared, P parameters) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  check(cudaLaunchKernelEx(&config, kernel, parameters));
}

std::vector<int> numbers(int n) {
  std::vector<int> v(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) v[static_cast<size_t>(i)] = static_cast<int>(unsigned(i) * 2654435761u >> 8);
  return v;
}

struct Case {
  bool (*clean)();
  bool (*bug)();
};
std::map<std::string, Case>& cases() {
  static std::map<std::string, Case> c;
  return c;
}
struct Register {
  Register(const char* name, Case c) { cases()[name] = c; }
};
// Follows a function template `bool name_case<BUG>()`, which tells whether the result was right.
#define CASE(name) const Register register_##name(#name, {&name##_case<false>, &name##_case<true>})

// Runs a kernel with one block of n threads that should reverse n numbers.
template <typename K>
bool reverses(K kernel, int n, size_t shared = 0) {
  std::vector<int> in = numbers(n), out(in.size(), -1);
  launch(kernel, 1, unsigned(n), shared, Parameters{in.data(), out.data(), n});
  return out == std::vector<int>(in.rbegin(), in.rend());
}

// ---- Barriers ---------------------------------------------------------------------------------------

// No barrier between the load into shared memory and its use.
template <bool BUG>
__global__ void barrier_after_load(Parameters p) {
  DTK_SHARED(int, tile, kThreads);
  tile[threadIdx.x] = p.in[threadIdx.x];
  if (!BUG) __syncthreads();
  p.out[threadIdx.x] = tile[p.n - 1 - threadIdx.x];
}
template <bool BUG>
bool barrier_after_load_case() {
  return reverses(barrier_after_load<BUG>, kThreads);
}
CASE(barrier_after_load);

// No barrier between the use of a tile and the load of the next one.
template <bool BUG>
__global__ void barrier_before_reuse(Parameters p) {
  DTK_DYNAMIC_SHARED(int, tile);
  for (int line = 0; line < 4; ++line) {
    tile[threadIdx.x] = p.in[line * p.n + threadIdx.x];
    __syncthreads();
    p.out[line * p.n + threadIdx.x] = tile[p.n - 1 - threadIdx.x];
    if (!BUG) __syncthreads();
  }
}
template <bool BUG>
bool barrier_before_reuse_case() {
  std::vector<int> in = numbers(4 * kThreads), out(in.size());
  launch(barrier_before_reuse<BUG>, 1, kThreads, kThreads * sizeof(int),
         Parameters{in.data(), out.data(), kThreads});
  for (int i = 0; i < 4 * kThreads; ++i) {
    int line = i / kThreads, k = i % kThreads;
    if (out[size_t(i)] != in[size_t(line * kThreads + kThreads - 1 - k)]) return false;
  }
  return true;
}
CASE(barrier_before_reuse);

// The two sides of a branch wait at different barriers.
template <bool BUG>
__global__ void barrier_in_branch(Parameters p) {
  DTK_SHARED(int, tile, kThreads);
  tile[threadIdx.x] = p.in[threadIdx.x];
  if (BUG) {
    if (threadIdx.x < 40) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else {
    __syncthreads();
  }
  p.out[threadIdx.x] = tile[p.n - 1 - threadIdx.x];
}
template <bool BUG>
bool barrier_in_branch_case() {
  return reverses(barrier_in_branch<BUG>, kThreads);
}
CASE(barrier_in_branch);

// Some threads skip a barrier and go on to the next one.
template <bool BUG>
__global__ void barrier_skipped(Parameters p) {
  DTK_SHARED(int, tile, kThreads);
  tile[threadIdx.x] = p.in[threadIdx.x];
  if (!BUG || threadIdx.x < 64) __syncthreads();
  p.out[threadIdx.x] = tile[p.n - 1 - threadIdx.x];
  __syncthreads();
}
template <bool BUG>
bool barrier_skipped_case() {
  return reverses(barrier_skipped<BUG>, kThreads);
}
CASE(barrier_skipped);

// Some threads skip the last barrier and return. CUDA lets the others pass, so it is a race, not a hang.
template <bool BUG>
__global__ void barrier_skipped_by_return(Parameters p) {
  DTK_SHARED(int, tile, kThreads);
  tile[threadIdx.x] = p.in[threadIdx.x];
  if (!BUG || threadIdx.x >= 64) __syncthreads();
  p.out[threadIdx.x] = tile[p.n - 1 - threadIdx.x];
}
template <bool BUG>
bool barrier_skipped_by_return_case() {
  return reverses(barrier_skipped_by_return<BUG>, kThreads);
}
CASE(barrier_skipped_by_return);

// A barrier in a loop whose length differs between threads.
template <bool BUG>
__global__ void barrier_in_uneven_loop(Parameters p) {
  DTK_SHARED(int, tile, kThreads);
  tile[threadIdx.x] = p.in[threadIdx.x];
  for (unsigned i = 0; i < (BUG ? 1 + threadIdx.x / 64 : 2); ++i) {
    __syncthreads();
  }
  int v = tile[p.n - 1 - threadIdx.x];
  __syncthreads();
  p.out[threadIdx.x] = v;
}
template <bool BUG>
bool barrier_in_uneven_loop_case() {
  return reverses(barrier_in_uneven_loop<BUG>, kThreads);
}
CASE(barrier_in_uneven_loop);

// ---- Warp collectives -------------------------------------------------------------------------------

// Lanes beyond the end return before a collective that names them.
template <bool BUG>
__global__ void early_return(Parameters p) {
  int i = int(threadIdx.x);
  if (BUG && i >= p.n) return;
  int v = i < p.n ? p.in[i] : 0;
  v = __shfl_xor_sync(0xffffffffu, v, 16);
  if (i < p.n) p.out[i] = v;
}
template <bool BUG>
bool early_return_case() {
  const int n = 100;
  std::vector<int> in = numbers(n), out(in.size());
  launch(early_return<BUG>, 1, kThreads, 0, Parameters{in.data(), out.data(), n});
  for (int i = 0; i < n; ++i) {
    if (out[size_t(i)] != ((i ^ 16) < n ? in[size_t(i ^ 16)] : 0)) return false;
  }
  return true;
}
CASE(early_return);

// A collective with the full mask in a loop that some lanes leave earlier.
template <bool BUG>
__global__ void collective_in_uneven_loop(Parameters p) {
  int lane = int(threadIdx.x), sum = 0;
  for (int k = 0; k < (BUG ? lane / 16 + 1 : 2); ++k)
    sum += __popc(__ballot_sync(0xffffffffu, lane >= k * 16));
  p.out[lane] = sum;
}
template <bool BUG>
bool collective_in_uneven_loop_case() {
  std::vector<int> out(32);
  launch(collective_in_uneven_loop<BUG>, 1, 32, 0, Parameters{nullptr, out.data(), 32});
  return out == std::vector<int>(32, 48);
}
CASE(collective_in_uneven_loop);

// Both sides of a branch name all lanes, though each has only half of them.
template <bool BUG>
__global__ void wrong_mask(Parameters p) {
  int v = int(threadIdx.x);
  if (threadIdx.x & 1) {
    v = __shfl_sync(BUG ? 0xffffffffu : 0xaaaaaaaau, v, 1);
  } else {
    v = __shfl_sync(BUG ? 0xffffffffu : 0x55555555u, v, 0);
  }
  p.out[threadIdx.x] = v;
}
template <bool BUG>
bool wrong_mask_case() {
  std::vector<int> out(32);
  launch(wrong_mask<BUG>, 1, 32, 0, Parameters{nullptr, out.data(), 32});
  for (int i = 0; i < 32; ++i) {
    if (out[size_t(i)] != (i & 1)) return false;
  }
  return true;
}
CASE(wrong_mask);

// A lane calls a collective with a mask that lacks it.
template <bool BUG>
__global__ void lane_not_in_mask(Parameters p) {
  unsigned half = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
  p.out[threadIdx.x] = int(__ballot_sync(BUG ? 0x0000ffffu : half, threadIdx.x & 1));
}
template <bool BUG>
bool lane_not_in_mask_case() {
  std::vector<int> out(32);
  launch(lane_not_in_mask<BUG>, 1, 32, 0, Parameters{nullptr, out.data(), 32});
  return unsigned(out[0]) == 0xaaaau && unsigned(out[31]) == 0xaaaa0000u;
}
CASE(lane_not_in_mask);

// The last warp of the block has 16 lanes, the mask names 24.
template <bool BUG>
__global__ void missing_lane(Parameters p) {
  unsigned mask = threadIdx.x < 32 ? 0xffffffffu : BUG ? 0x00ffffffu : 0x0000ffffu;
  p.out[threadIdx.x] = int(__reduce_add_sync(mask, 1u));
}
template <bool BUG>
bool missing_lane_case() {
  std::vector<int> out(48);
  launch(missing_lane<BUG>, 1, 48, 0, Parameters{nullptr, out.data(), 48});
  return out[0] == 32 && out[47] == 16;
}
CASE(missing_lane);

// Half a warp waits at a collective for the other half, which waits at a barrier.
template <bool BUG>
__global__ void collective_against_barrier(Parameters p) {
  unsigned votes = 0;
  if (threadIdx.x % 32 < 16) votes = __ballot_sync(BUG ? 0xffffffffu : 0x0000ffffu, 1);
  __syncthreads();
  p.out[threadIdx.x] = int(votes);
}
template <bool BUG>
bool collective_against_barrier_case() {
  std::vector<int> out(kThreads);
  launch(collective_against_barrier<BUG>, 1, kThreads, 0, Parameters{nullptr, out.data(), kThreads});
  return out[0] == 0xffff && out[16] == 0;
}
CASE(collective_against_barrier);

// Masks may overlap: lanes 16 to 31 wait for the whole warp while the others are still busy in a group of
// their own. The bug is a circle, three lanes each of which waits for the next.
template <bool BUG>
__global__ void overlapping_masks(Parameters p) {
  const unsigned lane = threadIdx.x;
  int votes = 0;
  if (BUG && lane < 3) {
    const unsigned next = (lane + 1) % 3;
    __syncwarp(1u << lane | 1u << next);
  } else if (lane < 16) {
    const unsigned mask = BUG ? 0xfff8u : 0xffffu;
    votes = __popc(__ballot_sync(mask, 1));
  }
  __syncwarp();
  p.out[lane] = votes;
}
template <bool BUG>
bool overlapping_masks_case() {
  std::vector<int> out(32);
  launch(overlapping_masks<BUG>, 1, 32, 0, Parameters{nullptr, out.data(), 32});
  return out[0] == 16 && out[31] == 0;
}
CASE(overlapping_masks);

// A shuffle reads from a lane outside the mask.
template <bool BUG>
__global__ void shuffle_outside_mask(Parameters p) {
  int v = int(threadIdx.x);
  if (threadIdx.x < 16) v = __shfl_sync(0x0000ffffu, v, BUG ? 16 : 15);
  p.out[threadIdx.x] = v;
}
template <bool BUG>
bool shuffle_outside_mask_case() {
  std::vector<int> out(32);
  launch(shuffle_outside_mask<BUG>, 1, 32, 0, Parameters{nullptr, out.data(), 32});
  return out[0] == 15 || out[0] == 16;
}
CASE(shuffle_outside_mask);

// Lanes exchange values through shared memory without __syncwarp.
template <bool BUG>
__global__ void missing_syncwarp(Parameters p) {
  DTK_SHARED(int, tile, 32);
  tile[threadIdx.x] = p.in[threadIdx.x];
  if (!BUG) __syncwarp();
  p.out[threadIdx.x] = tile[p.n - 1 - threadIdx.x];
}
template <bool BUG>
bool missing_syncwarp_case() {
  return reverses(missing_syncwarp<BUG>, 32);
}
CASE(missing_syncwarp);

// A vote stands where __syncwarp should: it brings the lanes together, but orders no memory.
template <bool BUG>
__global__ void vote_as_syncwarp(Parameters p) {
  DTK_SHARED(int, tile, 32);
  tile[threadIdx.x] = p.in[threadIdx.x];
  __any_sync(0xffffffffu, 1);
  if (!BUG) __syncwarp();
  p.out[threadIdx.x] = tile[p.n - 1 - threadIdx.x];
}
template <bool BUG>
bool vote_as_syncwarp_case() {
  return reverses(vote_as_syncwarp<BUG>, 32);
}
CASE(vote_as_syncwarp);

// ---- Memory -----------------------------------------------------------------------------------------

// One element of shared memory is never written.
template <bool BUG>
__global__ void uninitialised_shared(Parameters p) {
  DTK_SHARED(int, tile, kThreads + 1);
  tile[threadIdx.x] = 1;
  if (!BUG && threadIdx.x == 0) tile[kThreads] = 1;
  __syncthreads();
  p.out[threadIdx.x] = tile[threadIdx.x + 1];
}
template <bool BUG>
bool uninitialised_shared_case() {
  std::vector<int> out(kThreads);
  launch(uninitialised_shared<BUG>, 1, kThreads, 0, Parameters{nullptr, out.data(), kThreads});
  return out == std::vector<int>(kThreads, 1);
}
CASE(uninitialised_shared);

// The last thread writes behind a static shared array.
template <bool BUG>
__global__ void shared_overrun_write(Parameters p) {
  DTK_SHARED(int, tile, kThreads);
  int* cells = tile;  // through a pointer, so that only the address can be checked
  cells[threadIdx.x] = p.in[threadIdx.x];
  if (BUG && threadIdx.x == 0) cells[p.n] = 0;
  __syncthreads();
  p.out[threadIdx.x] = cells[p.n - 1 - threadIdx.x];
}
template <bool BUG>
bool shared_overrun_write_case() {
  return reverses(shared_overrun_write<BUG>, kThreads);
}
CASE(shared_overrun_write);

// One element is read from behind a static shared array.
template <bool BUG>
__global__ void shared_overrun_read(Parameters p) {
  DTK_SHARED(int, tile, kThreads);
  int* cells = tile;
  cells[threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();
  p.out[threadIdx.x] = cells[p.n - (BUG ? 0 : 1) - threadIdx.x];
}
template <bool BUG>
bool shared_overrun_read_case() {
  return reverses(shared_overrun_read<BUG>, kThreads);
}
CASE(shared_overrun_read);

// An index that the type of a static shared array rules out.
template <bool BUG>
__global__ void shared_index(Parameters p) {
  DTK_SHARED(int, tile, kThreads);
  tile[threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();
  p.out[threadIdx.x] = tile[p.n - (BUG ? 0 : 1) - threadIdx.x];
}
template <bool BUG>
bool shared_index_case() {
  return reverses(shared_index<BUG>, kThreads);
}
CASE(shared_index);

// Dynamic shared memory is used beyond the bytes of the launch.
template <bool BUG>
__global__ void dynamic_overrun(Parameters p) {
  DTK_DYNAMIC_SHARED(int, tile);
  tile[threadIdx.x + (BUG ? 1 : 0)] = p.in[threadIdx.x];
  __syncthreads();
  p.out[threadIdx.x] = tile[p.n - 1 - threadIdx.x + (BUG ? 1 : 0)];
}
template <bool BUG>
bool dynamic_overrun_case() {
  return reverses(dynamic_overrun<BUG>, kThreads, kThreads * sizeof(int));
}
CASE(dynamic_overrun);

// The last block reads beyond the end of the input.
template <bool BUG>
__global__ void global_overrun_read(Parameters p) {
  int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  int v = i < p.n + (BUG ? 1 : 0) ? p.in[i] : 0;
  if (i < p.n) p.out[i] = v;
}
template <bool BUG>
bool global_overrun_read_case() {
  std::vector<int> in = numbers(200), out(200);
  in.shrink_to_fit();
  launch(global_overrun_read<BUG>, 2, kThreads, 0, Parameters{in.data(), out.data(), 200});
  return in == out;
}
CASE(global_overrun_read);

// The last block writes beyond the end of the output.
template <bool BUG>
__global__ void global_overrun_write(Parameters p) {
  int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < p.n + (BUG ? 1 : 0)) p.out[i] = i;
}
template <bool BUG>
bool global_overrun_write_case() {
  std::vector<int> out(204);  // 816 bytes, which malloc rounds up: without ASan the write harms nobody
  launch(global_overrun_write<BUG>, 2, kThreads, 0, Parameters{nullptr, out.data(), 204});
  return out[203] == 203;
}
CASE(global_overrun_write);

// A vector load from an address that is no multiple of its size.
template <bool BUG>
__global__ void misaligned_load(Parameters p) {
  const int4 v = *reinterpret_cast<const int4*>(p.in + (BUG ? 1 : 4));
  p.out[threadIdx.x] = v.x;
}
template <bool BUG>
bool misaligned_load_case() {
  std::vector<int> in = numbers(16), out(1);
  launch(misaligned_load<BUG>, 1, 1, 0, Parameters{in.data(), out.data(), 16});
  return out[0] == in[BUG ? 1 : 4];
}
CASE(misaligned_load);

// A vector load from a shared array that declares no more than the alignment of int.
template <bool BUG>
__global__ void misaligned_shared(Parameters p) {
  using Element = std::conditional_t<BUG, int, int4>;
  DTK_SHARED(Element, tile, 16);
  int* cells = reinterpret_cast<int*>(tile);
  cells[threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) p.out[0] = reinterpret_cast<const int4*>(cells)->y;
}
template <bool BUG>
bool misaligned_shared_case() {
  std::vector<int> in = numbers(16), out(1);
  launch(misaligned_shared<BUG>, 1, 16, 0, Parameters{in.data(), out.data(), 16});
  return out[0] == in[1];
}
CASE(misaligned_shared);

// A product of two ints overflows before it is widened.
template <bool BUG>
__global__ void integer_overflow(Parameters p) {
  long long square = BUG ? (p.n * p.n) : (1ll * p.n * p.n);
  p.out[0] = int(square >> 32);
}
template <bool BUG>
bool integer_overflow_case() {
  std::vector<int> out(1);
  launch(integer_overflow<BUG>, 1, 1, 0, Parameters{nullptr, out.data(), 1 << 20});
  return out[0] == 256;
}
CASE(integer_overflow);

// ---- Between warps and between blocks ---------------------------------------------------------------

// The last warp to come by writes its partial result to a cell that all warps share.
template <bool BUG>
__global__ void warps_share_a_cell(Parameters p) {
  DTK_SHARED(int, cell, kThreads / 32);
  const unsigned warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) cell[BUG ? 0 : warp] = 7;
  __syncthreads();
  p.out[threadIdx.x] = cell[BUG ? 0 : warp];
}
template <bool BUG>
bool warps_share_a_cell_case() {
  std::vector<int> out(kThreads);
  launch(warps_share_a_cell<BUG>, 1, kThreads, 0, Parameters{nullptr, out.data(), kThreads});
  return out == std::vector<int>(kThreads, 7);
}
CASE(warps_share_a_cell);

// Warps that synchronise only among themselves hand data to each other.
template <bool BUG>
__global__ void syncwarp_between_warps(Parameters p) {
  DTK_SHARED(int, tile, 64);
  tile[threadIdx.x] = p.in[threadIdx.x];
  if (BUG) {
    __syncwarp();
  } else {
    __syncthreads();
  }
  p.out[threadIdx.x] = tile[p.n - 1 - threadIdx.x];
}
template <bool BUG>
bool syncwarp_between_warps_case() {
  return reverses(syncwarp_between_warps<BUG>, 64);
}
CASE(syncwarp_between_warps);

// Blocks count themselves without an atomic.
template <bool BUG>
__global__ void block_counter(Parameters p) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (BUG) {
    *p.out += 1;
  } else {
    atomicAdd(p.out, 1);
  }
}
template <bool BUG>
bool block_counter_case() {
  std::vector<int> out(1);
  launch(block_counter<BUG>, 16, 64, 0, Parameters{nullptr, out.data(), 1});
  return out[0] == 16;
}
CASE(block_counter);

// Blocks keep a maximum by comparing and storing.
template <bool BUG>
__global__ void non_atomic_max(Parameters p) {
  int v = p.in[blockIdx.x * blockDim.x + threadIdx.x];
  v = __reduce_max_sync(0xffffffffu, v);
  if (threadIdx.x != 0) return;
  if (BUG) {
    if (v > *p.out) *p.out = v;
  } else {
    atomicMax(p.out, v);
  }
}
template <bool BUG>
bool non_atomic_max_case() {
  std::vector<int> in = numbers(8 * 32), out(1);
  launch(non_atomic_max<BUG>, 8, 32, 0, Parameters{in.data(), out.data(), 8 * 32});
  int most = 0;
  for (int v : in) most = max(most, v);
  return out[0] == most;
}
CASE(non_atomic_max);

// Blocks read their neighbours' cells of the array that they update in place.
template <bool BUG>
__global__ void in_place_neighbours(Parameters p) {
  int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  int* out = BUG ? const_cast<int*>(p.in) : p.out;
  out[i] = (i + 1 < p.n ? p.in[i + 1] : 0) + 1;
}
template <bool BUG>
bool in_place_neighbours_case() {
  std::vector<int> in(256, 5), out(256);
  launch(in_place_neighbours<BUG>, 4, 64, 0, Parameters{in.data(), out.data(), 256});
  return (BUG ? in : out)[0] == 6;
}
CASE(in_place_neighbours);

struct Chain {
  int* ticket;
  int* flag;
  int* value;
  int fence;  // bit 0: before the flag is set, bit 1: after it was seen, bit 2: after the flag is set
};

// Every block hands a number to the next one. The order is taken from a ticket, since the device may start
// blocks in any order; the bug is to wait for a block that comes later, or to lack a fence.
template <bool BACKWARDS>
__global__ void chain(Chain p) {
  if (threadIdx.x != 0) return;
  int self = atomicAdd(p.ticket, 1), last = int(gridDim.x) - 1, before = BACKWARDS ? self + 1 : self - 1;
  int sum = 1;
  if (before >= 0 && before <= last) {
    while (atomicAdd(p.flag + before, 0) == 0) __nanosleep(20);
    if (p.fence & 2) __threadfence();
    sum += p.value[before];
  }
  p.value[self] = sum;
  if (p.fence & 1) __threadfence();
  atomicExch(p.flag + self, 1);
  if (p.fence & 4) __threadfence();
}
template <bool BACKWARDS>
bool run_chain(int fence) {
  const int blocks = 16;
  int ticket = 0;
  std::vector<int> flag(blocks), value(blocks);
  launch(chain<BACKWARDS>, blocks, 32, 0, Chain{&ticket, flag.data(), value.data(), fence});
  return value[blocks - 1] == blocks;
}

template <bool BUG>
bool spin_on_later_block_case() {
  return run_chain<BUG>(3);
}
CASE(spin_on_later_block);

template <bool BUG>
bool flag_without_fences_case() {
  return run_chain<false>(BUG ? 0 : 3);
}
CASE(flag_without_fences);

template <bool BUG>
bool flag_without_reader_fence_case() {
  return run_chain<false>(BUG ? 1 : 3);
}
CASE(flag_without_reader_fence);

template <bool BUG>
bool flag_before_fence_case() {
  return run_chain<false>(BUG ? 6 : 3);
}
CASE(flag_before_fence);

// The flag is set before the value is there.
template <bool BUG>
__global__ void flag_before_value(Chain p) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    if (BUG) atomicExch(p.flag, 1);
    atomicExch(p.value, 42);
    __threadfence();
    if (!BUG) atomicExch(p.flag, 1);
  } else {
    for (int tries = 0; tries < 100; ++tries) {
      if (atomicAdd(p.flag, 0) == 0) continue;
      __threadfence();
      if (atomicAdd(p.value, 0) != 42) atomicExch(p.ticket, 1);
    }
  }
}
template <bool BUG>
bool flag_before_value_case() {
  for (int trial = 0; trial < 20; ++trial) {
    int wrong = 0, flag = 0, value = 0;
    launch(flag_before_value<BUG>, 2, 32, 0, Chain{&wrong, &flag, &value, 0});
    if (wrong) return false;
  }
  return true;
}
CASE(flag_before_value);

// A loop waits for a flag that no thread will set.
template <bool BUG>
__global__ void spin_on_nobody(Parameters p) {
  if (!BUG && threadIdx.x == 1) atomicExch(p.out, 1);
  if (threadIdx.x == 0) {
    while (atomicAdd(p.out, 0) == 0) {
    }
  }
}
template <bool BUG>
bool spin_on_nobody_case() {
  std::vector<int> out(1);
  launch(spin_on_nobody<BUG>, 1, 32, 0, Parameters{nullptr, out.data(), 1});
  return out[0] == 1;
}
CASE(spin_on_nobody);

// ---- Launches ---------------------------------------------------------------------------------------

// More than 48 KiB of dynamic shared memory without asking for it.
template <bool BUG>
__global__ void shared_opt_in(Parameters p) {
  DTK_DYNAMIC_SHARED(int, tile);
  for (int i = int(threadIdx.x); i < p.n; i += int(blockDim.x)) tile[i] = i;
  __syncthreads();
  if (threadIdx.x == 0) p.out[0] = tile[p.n - 1];
}
template <bool BUG>
bool shared_opt_in_case() {
  const int n = 60 * 1024 / 4;
  std::vector<int> out(1);
  if (!BUG)
    check(cudaFuncSetAttribute(shared_opt_in<BUG>, cudaFuncAttributeMaxDynamicSharedMemorySize, n * 4));
  launch(shared_opt_in<BUG>, 1, kThreads, n * 4, Parameters{nullptr, out.data(), n});
  return out[0] == n - 1;
}
CASE(shared_opt_in);

// More shared memory than the device has.
template <bool BUG>
bool shared_above_limit_case() {
  const int n = (BUG ? 256 : 200) * 1024 / 4;
  std::vector<int> out(1);
  check(cudaFuncSetAttribute(shared_opt_in<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, n * 4));
  launch(shared_opt_in<false>, 1, kThreads, n * 4, Parameters{nullptr, out.data(), n});
  return out[0] == n - 1;
}
CASE(shared_above_limit);

// Static arrays count too.
template <bool BUG>
__global__ void static_and_dynamic(Parameters p) {
  DTK_SHARED(int, table, 4096);
  DTK_DYNAMIC_SHARED(int, tile);
  table[threadIdx.x] = tile[threadIdx.x] = p.in[threadIdx.x];
  p.out[threadIdx.x] = table[threadIdx.x] + tile[threadIdx.x];
}
template <bool BUG>
bool static_and_dynamic_case() {
  std::vector<int> in = numbers(32), out(32);
  launch(static_and_dynamic<BUG>, 1, 32, size_t(BUG ? 40 : 32) * 1024, Parameters{in.data(), out.data(), 32});
  return out[5] == 2 * in[5];
}
CASE(static_and_dynamic);

__global__ void write_row(Parameters p) {
  if (threadIdx.x == 0 && threadIdx.y == 0) p.out[blockIdx.y] = 1;
}

// The y dimension of the grid ends at 65,535.
template <bool BUG>
bool grid_too_large_case() {
  std::vector<int> out(BUG ? 65536 : 500);
  launch(write_row, dim3(1, unsigned(out.size())), 1, 0, Parameters{nullptr, out.data(), 0});
  return out.back() == 1;
}
CASE(grid_too_large);

// An empty grid, as from an empty tensor, is an error and not a launch of nothing.
template <bool BUG>
bool grid_empty_case() {
  std::vector<int> out(1);
  launch(write_row, BUG ? 0 : 1, 1, 0, Parameters{nullptr, out.data(), 0});
  return out[0] == 1;
}
CASE(grid_empty);

template <bool BUG>
bool block_too_large_case() {
  std::vector<int> out(1);
  launch(write_row, 1, dim3(32, BUG ? 33 : 32), 0, Parameters{nullptr, out.data(), 0});
  return out[0] == 1;
}
CASE(block_too_large);

// A kernel that a capped grid asks to do several rounds does one.
template <bool BUG>
__global__ void grid_stride(Parameters p) {
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < p.n; i += int(gridDim.x * blockDim.x)) {
    p.out[i] = p.in[i];
    if (BUG) break;
  }
}
template <bool BUG>
bool grid_stride_case() {
  std::vector<int> in = numbers(1000), out(in.size());
  int processors = 0, blocks = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, grid_stride<BUG>, kThreads, 0));
  launch(grid_stride<BUG>, unsigned(min(processors * blocks, 2)), kThreads, 0,
         Parameters{in.data(), out.data(), 1000});
  return in == out;
}
CASE(grid_stride);

// In the second round of a grid-stride loop, shared memory still holds the first round's result.
template <bool BUG>
__global__ void grid_stride_state(Parameters p) {
  DTK_SHARED(int, sum, 1);
  if (BUG && threadIdx.x == 0) *sum = 0;
  for (int line = int(blockIdx.x); line < p.n; line += int(gridDim.x)) {
    if (!BUG && threadIdx.x == 0) *sum = 0;
    __syncthreads();
    atomicAdd(sum, 1);
    __syncthreads();
    if (threadIdx.x == 0) p.out[line] = *sum;
    __syncthreads();
  }
}
template <bool BUG>
bool grid_stride_state_case() {
  std::vector<int> out(4);
  launch(grid_stride_state<BUG>, 2, 64, 0, Parameters{nullptr, out.data(), 4});
  return out == std::vector<int>(4, 64);
}
CASE(grid_stride_state);

// ---- Union-find, sums and ties: what label.cuh and argmin.cuh rest on -----------------------------------

// Thread i unites the nodes in[2 i] and in[2 i + 1]; parents in `out`.
enum class Union { right, forgets_link, reads_plainly, stores_plainly };

template <Union kind>
__device__ int root_of(int* parent, int node) {
  for (;;) {
    const int above =
        kind == Union::right || kind == Union::forgets_link ? dtk_load_relaxed(parent + node) : parent[node];
    if (above == node) return node;
    node = above;
  }
}

template <Union kind>
__global__ void unite(Parameters p) {
  int a = p.in[2 * (blockIdx.x * blockDim.x + threadIdx.x)];
  int b = p.in[2 * (blockIdx.x * blockDim.x + threadIdx.x) + 1];
  for (;;) {
    a = root_of<kind>(p.out, a);
    b = root_of<kind>(p.out, b);
    if (a == b) return;
    const int above = max(a, b), below = min(a, b);
    if (kind == Union::stores_plainly) {
      p.out[above] = below;
      return;
    }
    a = atomicMin(p.out + above, below);
    if (a == above || kind == Union::forgets_link) return;
    b = below;
  }
}

template <Union kind>
bool unites() {
  // Every node with a later one, several times over: the nodes of equal remainders by 3.
  const int n = 1024;
  std::vector<int> edges, parent(n);
  for (int i = 0; i < n; ++i) parent[size_t(i)] = i;
  for (int i = 0; i < n; ++i) {
    edges.push_back(i);
    edges.push_back((i + 3 * (1 + i * 7 % 40)) % (n - 1));
  }
  std::vector<int> expected(parent);  // serially
  const auto find = [&](int i) {
    while (expected[size_t(i)] != i) i = expected[size_t(i)];
    return i;
  };
  for (size_t e = 0; e < edges.size(); e += 2) {
    const int a = find(edges[e]), b = find(edges[e + 1]);
    expected[size_t(max(a, b))] = min(a, b);
  }
  launch(unite<kind>, n / kThreads, kThreads, 0, Parameters{edges.data(), parent.data(), n});
  for (int i = 0; i < n; ++i) {
    int root = i;
    while (parent[size_t(root)] != root) root = parent[size_t(root)];
    if (root != find(i)) return false;
  }
  return true;
}

// The link that a minimum replaced is not joined again.
template <bool BUG>
bool union_forgets_link_case() {
  return unites<BUG ? Union::forgets_link : Union::right>();
}
CASE(union_forgets_link);

// Parents are read by ordinary loads, which may meet another thread's atomics.
template <bool BUG>
bool union_reads_plainly_case() {
  return unites<BUG ? Union::reads_plainly : Union::right>();
}
CASE(union_reads_plainly);

// Parents are changed by ordinary stores: of two unions at once one may be lost.
template <bool BUG>
bool union_stores_plainly_case() {
  return unites<BUG ? Union::stores_plainly : Union::right>();
}
CASE(union_stores_plainly);

// A prefix sum over a block whose warps do not wait for one another's sums.
template <bool BUG>
__global__ void sum_before(Parameters p) {
  DTK_SHARED(int, sums, kThreads / 32);
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int value = p.in[threadIdx.x];
  int so_far = value;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, so_far, step);
    if (lane >= step) so_far += other;
  }
  if (lane == 31) sums[warp] = so_far;
  if (!BUG) __syncthreads();
  int before = so_far - value;
  for (int w = 0; w < warp; ++w) before += sums[w];
  p.out[threadIdx.x] = before;
}
template <bool BUG>
bool sum_without_barrier_case() {
  std::vector<int> in(kThreads), out(in.size()), expected(in.size());
  for (size_t i = 0; i < in.size(); ++i) in[i] = int(i * i % 17);
  for (size_t i = 1; i < in.size(); ++i) expected[i] = expected[i - 1] + in[i - 1];
  launch(sum_before<BUG>, 1, kThreads, 0, Parameters{in.data(), out.data(), kThreads});
  return out == expected;
}
CASE(sum_without_barrier);

// Of equally near sites the last is taken, not the first.
template <bool BUG>
__global__ void nearest_site(Parameters p) {
  const int at = int(threadIdx.x);
  int best = 1 << 30, site = -1;
  for (int j = 0; j < p.n; ++j) {
    const int cost = p.in[j] + (j - at) * (j - at);
    if (BUG ? cost <= best : cost < best) {
      best = cost;
      site = j;
    }
  }
  p.out[at] = site;
}
template <bool BUG>
bool tie_from_last_case() {
  std::vector<int> in(kThreads), out(in.size());
  for (size_t i = 0; i < in.size(); ++i) in[i] = i % 4 == 0 ? 0 : 1 << 20;
  launch(nearest_site<BUG>, 1, kThreads, 0, Parameters{in.data(), out.data(), kThreads});
  for (int i = 0; i < kThreads - 2; ++i)
    if (out[size_t(i)] != (i + 1) / 4 * 4) return false;
  return true;
}
CASE(tie_from_last);

void run(const char* name, bool (*variant)()) {
  try {
    const char* result = variant() ? "right" : "wrong";
    std::printf("%s: %s\n", name, result);
  } catch (const std::exception& e) {
    std::printf("%s: %s\n", name, e.what());
  }
  std::fflush(stdout);  // a sanitizer may end the process at any time
}

// Every thread takes the next place: shows the order in which they came.
__global__ void arrive(Parameters p) {
  p.out[atomicAdd(p.out + p.n, 1)] = int(blockIdx.x * blockDim.x + threadIdx.x);
}

void print_order() {
  const int n = 256;
  std::vector<int> out(n + 1);
  launch(arrive, n / 32, 32, 0, Parameters{nullptr, out.data(), n});
  for (int i = 0; i < n; ++i) std::printf("%d ", out[size_t(i)]);
}

}  // namespace bugs

int main(int count, char** arguments) {
  const std::string first = count > 1 ? arguments[1] : "";
  if (first == "--order") {
    bugs::print_order();
    return 0;
  }
  for (const auto& [name, variants] : bugs::cases()) {
    if (first.empty()) std::puts(name.c_str());
    if (first == "--clean") bugs::run(name.c_str(), variants.clean);
    if (first == name) bugs::run(name.c_str(), variants.bug);
    if (first == name && count > 2) {
      bugs::run(name.c_str(), variants.bug);
      bugs::run(name.c_str(), variants.clean);
    }
  }
  return 0;
}
