// Connected components: union-find in global memory over the runs of foreground along x, without a host.
//
//   label_rows    every row becomes bits; the first voxel of each run becomes a node, its own parent
//   label_unite   nodes of rows that touch are united
//   label_roots   every node learns its root; roots become bits, counted within chunks of 256 words
//   label_count   per image: the chunks' counts become offsets, their sum the number of components
//   label_write   every voxel gets the number of its run's root
//
// A node is known by its position in the image, its parent lies at that position in the result, and a union
// always keeps the smaller root. So parents come before their children, the root of a component is its first
// voxel in raster order, and a component's number is 1 + the roots before that: a prefix sum over the bits,
// whose result depends on neither the threads nor the order of unions.
//
// Unions without locks. Parents change by atomicMin alone, so they only ever decrease and no cycle can form.
// To unite two roots a > b, a thread takes the minimum of a's parent and b. Where a was no root any more, the
// link that was there may just have been replaced, so the thread goes on to unite b with where it led:
// whatever it broke is joined again when it is done. Walking up, a thread halves the path by the same
// atomicMin with an ancestor. Playne & Hawick, A New Algorithm for Parallel Connected-Component Labelling on
// GPUs, IEEE TPDS 29, 2018; halving: Jaiganesh & Burtscher, A High-Performance Connected Components
// Implementation for GPUs, HPDC 2018.
//
// Global memory: the image and 4 bytes of result per voxel, 0.75 bytes of bits and offsets at most; 12 bytes
// per run. No pass over voxels reads a label.
#pragma once
#include "rows.cuh"

namespace dtk {

struct Label {
  Operands at;            // image -> labels, and counts in `second`; bits, roots, offsets in scratch
  int64_t images;         // batch * class
  int64_t rows;           // of an image
  int64_t roots_offset;   // of a word for every word of bits, in bytes from scratch
  int64_t before_offset;  // of a half-word for every word of bits: roots before it in its chunk
  int64_t chunks_offset;  // of a word for every chunk
  int64_t chunks;         // of an image
  int32_t height;         // rows of a slice
  int32_t width;          // voxels of a row
  int32_t words;          // of a row
  int32_t lanes_log2;     // label_unite: lanes of a warp that share a row
  int32_t connectivity;   // neighbours differ by at most 1 in each of at most this many coordinates
};

constexpr int kChunkLog2 = 8;  // words of a chunk, which are the threads of its block

// What the kernels have of one image.
template <typename Node>
struct LabelImage {
  const Label& params;
  Node* parent;  // by position; the labels in the end
  uint32_t* bits;
  uint32_t* roots;
  uint16_t* before;
  uint32_t* chunk;

  __device__ LabelImage(const Label& p, int64_t image) : params(p) {
    char* scratch = static_cast<char*>(p.at.scratch);
    const int64_t first = image * p.rows * p.words;
    parent = static_cast<Node*>(p.at.target) + image * p.rows * p.width;
    bits = reinterpret_cast<uint32_t*>(scratch) + first;
    roots = reinterpret_cast<uint32_t*>(scratch + p.roots_offset) + first;
    before = reinterpret_cast<uint16_t*>(scratch + p.before_offset) + first;
    chunk = reinterpret_cast<uint32_t*>(scratch + p.chunks_offset) + image * p.chunks;
  }

  __device__ Node row_start(int64_t row) const { return Node(row) * Node(params.width); }

  __device__ Node root_of(Node node) const {
    Node above = dtk_load_relaxed(parent + node);
    while (above != node) {
      const Node next = dtk_load_relaxed(parent + above);
      if (next == above) return above;
      atomicMin(parent + node, next);
      node = next;
      above = dtk_load_relaxed(parent + node);
    }
    return node;
  }

  __device__ void unite(Node a, Node b) const {
    for (;;) {
      a = root_of(a);
      b = root_of(b);
      if (a == b) return;
      const Node above = larger(a, b), below = smaller(a, b);
      a = atomicMin(parent + above, below);
      if (a == above) return;
      b = below;
    }
  }

  // Number of a component by its root: 1 + the roots before it.
  __device__ uint32_t number(Node root) const {
    const Node row = root / Node(params.width);
    const int x = int(root - row * Node(params.width));
    const int64_t word = int64_t(row) * params.words + x / 32;
    return chunk[word >> kChunkLog2] + before[word] + uint32_t(__popc(roots[word] & bits_to(x % 32)));
  }
};

// First voxels of runs among the bits of a word; `previous`: the voxel before it, as a bit.
__device__ inline uint32_t run_begins(uint32_t bits, uint32_t previous) {
  return bits & ~(bits << 1 | previous);
}

// Threads: a warp to a row.
template <typename Node>
__global__ void __launch_bounds__(256, 3) label_rows(const __grid_constant__ Label params) {
  constexpr int kBatch = 4;
  const int lane = lane_index();
  const int64_t warps = int64_t(gridDim.x) * (blockDim.x / 32);
  for (int64_t row = int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       row < params.images * params.rows; row += warps) {
    const int64_t image = row / params.rows, own_row = row % params.rows;
    const LabelImage<Node> own(params, image);
    const int64_t offset = row_offset(params.at.image, row), class_index = image % params.at.image.shape[1];
    uint32_t previous = 0;
    for (int first = 0; first < params.words; first += kBatch) {
      uint32_t bits[kBatch];
      read_words(params.at.image, offset, class_index, int64_t(first) * 32, bits);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i >= params.words) break;
        const uint32_t begins = run_begins(bits[i], previous);
        previous = bits[i] >> 31;
        if (lane == 0) own.bits[own_row * params.words + first + i] = bits[i];
        const Node node = own.row_start(own_row) + Node(32 * (first + i) + lane);
        if (begins >> lane & 1) own.parent[node] = node;
      }
    }
  }
}

// A lane's word of a row beside the words of the lanes around it.
struct RunWord {
  uint32_t bits;
  uint32_t shifted;  // bit p: the voxel before p
  uint32_t begins;
  int first;   // voxel of bit 0
  int before;  // where the run begins that holds the voxel before, if one does

  // Where the run begins that holds voxel p, or the voxel before p.
  __device__ int start(int p) const {
    const uint32_t candidates = begins & (bits >> p & 1 ? bits_to(p) : bits_below(p));
    return candidates != 0 ? first + highest(candidates) : before;
  }
};

// What the words of a row hand on to the next ones.
struct RunCarry {
  uint32_t bit = 0;
  int start = -1;  // of the last run so far
};

// `lanes` neighbouring lanes hold that many words of one row, from voxel 32 * word on; all lanes of the warp
// call.
__device__ inline RunWord run_word(uint32_t bits, int word, int lanes, RunCarry* carry) {
  const bool leading = (lane_index() & (lanes - 1)) == 0;
  RunWord result;
  result.bits = bits;
  result.first = 32 * word;
  const uint32_t neighbour = __shfl_up_sync(kWarp, bits >> 31, 1, lanes);
  const uint32_t previous = leading ? carry->bit : neighbour;
  result.shifted = bits << 1 | previous;
  result.begins = run_begins(bits, previous);
  const int last = result.begins != 0 ? result.first + highest(result.begins) : -1;
  const int so_far = larger(largest_so_far(last, lanes), carry->start);
  const int before = __shfl_up_sync(kWarp, so_far, 1, lanes);
  result.before = leading ? carry->start : before;
  carry->bit = __shfl_sync(kWarp, bits >> 31, lanes - 1, lanes);
  carry->start = __shfl_sync(kWarp, so_far, lanes - 1, lanes);
  return result;
}

// Unites each row's runs with those of the rows before it: the one above, and in the slice before the one at
// the same place and (connectivity 2 and 3) those above and below that. The step to another row changes one
// or two coordinates; what is left of the connectivity decides about the diagonals along x.
//
// Of two runs that touch, the later beginning is at a voxel p that belongs to both or (diagonally) follows
// the last voxel of the other. So every such pair shows at one p where one of them begins, and a few bit
// operations find these for 32 voxels at once; most words have none. Where a run began that started in an
// earlier word follows from a maximum over the lanes before.
//
// Threads: 1 << lanes_log2 lanes to a row, a lane to a word; rows of more than 32 words go round.
template <typename Node>
__global__ void __launch_bounds__(256, 3) label_unite(const __grid_constant__ Label params) {
  constexpr int kNeighbours = 4;
  const int lanes = 1 << params.lanes_log2;
  const int lane = lane_index() & (lanes - 1);
  const int64_t per_warp = 32 >> params.lanes_log2;
  const int64_t warps = int64_t(gridDim.x) * (blockDim.x / 32);
  const int64_t total = params.images * params.rows;
  const int neighbours = params.connectivity < 2 ? 2 : kNeighbours;
  for (int64_t warp = int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; warp * per_warp < total;
       warp += warps) {
    const int64_t item = warp * per_warp + (lane_index() >> params.lanes_log2);
    const bool valid = item < total;
    const int64_t row = valid ? item % params.rows : 0;
    const LabelImage<Node> image(params, valid ? item / params.rows : 0);
    const int64_t y = row % params.height, z = row / params.height;
    RunCarry carry, other_carry[kNeighbours];
    for (int base = 0; base < params.words; base += lanes) {
      const int word = base + lane;
      const bool inside = valid && word < params.words;
      const RunWord own = run_word(inside ? image.bits[row * params.words + word] : 0u, word, lanes, &carry);
#pragma unroll
      for (int k = 0; k < kNeighbours; ++k) {
        if (k >= neighbours) break;
        const int64_t up = k == 0 || k == 2 ? 1 : k == 3 ? -1 : 0;  // rows, and k > 0 is a slice before
        const bool there = inside && y >= up && y - up < params.height && (k == 0 || z > 0);
        const int64_t other_row = row - up - (k == 0 ? 0 : params.height);
        const uint32_t bits = there ? image.bits[other_row * params.words + word] : 0u;
        const RunWord other = run_word(bits, word, lanes, &other_carry[k]);
        const uint32_t corners = params.connectivity > (k < 2 ? 1 : 2) ? ~0u : 0u;
        uint32_t touching = (own.begins & (other.bits | (other.shifted & corners))) |
                            (other.begins & (own.bits | (own.shifted & corners)));
        for (; touching != 0; touching &= touching - 1) {
          const int p = lowest(touching);
          image.unite(image.row_start(row) + Node(own.start(p)),
                      image.row_start(other_row) + Node(other.start(p)));
        }
      }
    }
  }
}

// Sum over the threads before this one; `total` over all. `sums` has a place for every warp. All threads
// call, and may call again after a barrier.
__device__ inline uint32_t sum_before(uint32_t value, uint32_t* sums, uint32_t* total) {
  const int lane = lane_index(), warp = int(threadIdx.x / 32), warps = int(blockDim.x / 32);
  uint32_t so_far = value;
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(kWarp, so_far, step);
    if (lane >= step) so_far += other;
  }
  if (lane == 31) sums[warp] = so_far;
  __syncthreads();
  uint32_t before = so_far - value;
  *total = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += sums[w];
    *total += sums[w];
  }
  return before;
}

// Threads: a block to a chunk, a thread to a word.
template <typename Node>
__global__ void __launch_bounds__(256) label_roots(const __grid_constant__ Label params) {
  DTK_SHARED(uint32_t, sums, 32);
  const int64_t words = params.rows * params.words;
  for (int64_t item = blockIdx.x; item < params.images * params.chunks; item += gridDim.x) {
    const LabelImage<Node> image(params, item / params.chunks);
    const int64_t word = (item % params.chunks << kChunkLog2) + threadIdx.x;
    const bool valid = word < words;
    uint32_t roots = 0;
    if (valid) {
      const int64_t row = word / params.words;
      const int x = int(word % params.words);
      const uint32_t previous = x > 0 ? image.bits[word - 1] >> 31 : 0u;
      for (uint32_t begins = run_begins(image.bits[word], previous); begins != 0; begins &= begins - 1) {
        const Node node = image.row_start(row) + Node(32 * x + lowest(begins));
        const Node root = image.root_of(node);
        if (root == node) {
          roots |= begins & (0u - begins);
        } else {
          atomicMin(image.parent + node, root);  // for the last time
        }
      }
      image.roots[word] = roots;
    }
    uint32_t total;
    const uint32_t before = sum_before(uint32_t(__popc(roots)), sums, &total);
    if (valid) image.before[word] = uint16_t(before);
    if (threadIdx.x == 0) image.chunk[item % params.chunks] = total;
    __syncthreads();  // the next chunk overwrites the sums
  }
}

// Threads: a block to an image.
template <typename Node>
__global__ void __launch_bounds__(1024) label_count(const __grid_constant__ Label params) {
  DTK_SHARED(uint32_t, sums, 32);
  for (int64_t item = blockIdx.x; item < params.images; item += gridDim.x) {
    const LabelImage<Node> image(params, item);
    uint32_t count = 0;
    for (int64_t first = 0; first < params.chunks; first += blockDim.x) {
      const int64_t i = first + threadIdx.x;
      const bool valid = i < params.chunks;
      uint32_t total;
      const uint32_t before = sum_before(valid ? image.chunk[i] : 0u, sums, &total);
      if (valid) image.chunk[i] = count + before;
      count += total;
      __syncthreads();  // the next chunks overwrite the sums
    }
    if (threadIdx.x == 0) static_cast<uint32_t*>(params.at.second)[item] = count;
  }
}

// Threads: a warp to a row, a lane to a voxel; the lane where a run begins looks its number up for the
// others.
template <typename Node>
__global__ void __launch_bounds__(256) label_write(const __grid_constant__ Label params) {
  constexpr int kBatch = 4;
  const int lane = lane_index();
  const int64_t warps = int64_t(gridDim.x) * (blockDim.x / 32);
  for (int64_t item = int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       item < params.images * params.rows; item += warps) {
    const LabelImage<Node> image(params, item / params.rows);
    const int64_t row = item % params.rows;
    Node* labels = image.parent + image.row_start(row);
    uint32_t previous = 0, carried = 0;  // the voxel before, and its number
    for (int first = 0; first < params.words; first += kBatch) {
      uint32_t bits[kBatch], begins[kBatch], number[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        bits[i] = first + i < params.words ? image.bits[row * params.words + first + i] : 0u;
        begins[i] = run_begins(bits[i], previous);
        previous = bits[i] >> 31;
        number[i] = 0;
        if (begins[i] >> lane & 1) number[i] = image.number(labels[32 * (first + i) + lane]);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const uint32_t begun = begins[i] & bits_to(lane);
        const uint32_t from_word = __shfl_sync(kWarp, number[i], begun != 0 ? highest(begun) : 0);
        uint32_t value = begun != 0 ? from_word : carried;
        if ((bits[i] >> lane & 1) == 0) value = 0;
        const int x = 32 * (first + i) + lane;
        if (x < params.width) labels[x] = Node(value);
        carried = __shfl_sync(kWarp, value, 31);
      }
    }
  }
}

}  // namespace dtk
