// The two last axes of a volume whose squares fit 16 bits, two lines to a lane: the slices of slice.cuh at
// half the shared memory and, where the processor has minima of packed halves (capability 9.0 on), at half
// the work.
//
// One problem for both signs. For a voxel p of a signed transform let h(j) be the magnitudes within the axes
// already done, of both classes alike, and r(p) the steps from p along the axis to the nearest voxel of the
// other class. Then
//
//   D(p) = min( r(p)^2,  min_j h(j) + (p - j)^2 ):
//
// a voxel j of the other class is a site at distance 0, which it does not offer here, but it lies at least
// r(p) away, so what it offers instead is never below r(p)^2; and a voxel j of p's own class beyond the end
// of p's run lies further away than that end. So the minimum over the sites knows no classes, r(p) enters
// once, and the class of a voxel is of no use before its distance is written. (An unsigned transform needs no
// r: its background is a site of value 0.)
//
// Bounds, per half of a word. A coarse voxel q searches its window, |q - j| <= w(q) with w(q)^2 below both
// h(q) and r(q)^2, between the sites of the coarse voxels left and right of it, and keeps the site s(q) that
// is cheapest for it. No voxel p > q needs a site j < s(q):
//   - searched by q: cost(j, p) - cost(s, p) = cost(j, q) - cost(s, q) + 2 (p - q) (s - j) > 0;
//   - below the site of q's left neighbour: not needed by what was said of that one;
//   - further than w(q) as (q - j)^2 >= h(q): q itself is as good a site for q, so the first case applies;
//   - further than w(q) as q - j >= r(q): if p is in q's run, an end of the run is nearer to p than j is (it
//     lies r(q) from q on one side or the other); if not, the end before p's run lies between q and p.
// So too for p < q. Every argument holds for a search that is wider than the window, as it is where the other
// half of the word needs more.
//
// Memory: [row * pitch + pair of columns], a word of two squares. The first pass solves columns and stores
// its results as pairs of rows instead: (rows 2i, 2i + 1; column x) at row i + (x odd) * half the height,
// column x / 2. A tile owns whole columns, so it may overwrite them when all of its threads have read them;
// and lanes on neighbouring pairs of rows are `pitch` words apart, an odd number. Classes: a byte for eight
// rows.
//
// Both axes are filled up to whole strips with copies of the last voxel: sites that no voxel of the
// image needs, and no change of class.
//
// Threads: as slice.cuh, a thread for every strip of kRows voxels and pair of lines, in teams. Much of what a
// strip costs does not depend on its length: its bounds, the ends of its run, its sites. So strips have
// sixteen voxels where there are slices enough: they take 80 registers, three blocks of 256 threads to a
// multiprocessor. A single volume takes strips of eight, twice the threads to a line, in blocks of up to
// 1,024.
//
// kJoint: two slices of one place, the target's and the prediction's, one after the other by the same code,
// and an end that sees both (weigh.cuh): neither map reaches memory. The second slice begins where the first
// one's teams had their memory, as the solved one needs no teams: two slices take `team_offset` more bytes
// than one.
#pragma once
#include "epilogue.cuh"
#include "runs.cuh"
#include "weigh.cuh"

namespace dtk {

struct PackedSlices {
  Operands at;             // run codes -> distances
  uint32_t slices;         // of all images, below 2^31
  int32_t classes_offset;  // in shared memory behind the squares
  int32_t classes_pitch;
  int32_t team_offset;  // of the first team's memory
  int32_t team_bytes;   // from one team to the next
  int32_t extent[3];    // (z, y, x)
  int32_t pitch;        // of words
  int32_t none;         // "no site": above every square, and with a line's steps added still below 2^16
  int32_t lanes_log2;   // pairs of lines
  int32_t teams;
  int32_t team_threads;
  int32_t out_dtype;  // DType
  int32_t squared;
  int32_t closed;
  float weight[3];  // the squared spacing
  float scale;
  int32_t plain;  // float32, open border
  Mapping map;
};

// Two halves of a word.
__device__ inline uint32_t both(uint32_t x) { return x * 0x00010001u; }
__device__ inline uint32_t halves(uint32_t low, uint32_t high) { return low & 0xffffu | high << 16; }
__device__ inline int low_half(uint32_t x) { return int(x & 0xffffu); }
__device__ inline int high_half(uint32_t x) { return int(x >> 16); }
// All ones in the halves whose lowest bit is set.
__device__ inline uint32_t spread_halves(uint32_t ones) { return (ones & 0x00010001u) * 0xffffu; }

// The word of voxel p of a pair of lines.
struct PairedLine {
  int origin, odd, two;  // from voxel 0, to voxel 1, to voxel 2

  __device__ int at(int p) const { return origin + (p >> 1) * two + (p & 1) * odd; }
  __device__ int step(int p) const { return (p & 1) ? two - odd : odd; }  // from voxel p to the next
};

template <typename Run, bool kSigned, int kRows, bool kJoint = false>
struct PackedSlice {
  using Code = RunCode<Run>;
  static_assert(kRows == 8 || kRows == 16, "classes are bytes, changes of class halves of a word");
  static constexpr int kNear = 6;                    // reach that needs no coarse sites
  static constexpr uint32_t kAbove = kRows * kRows;  // keeps what leaves out i^2 positive
  static constexpr int kBias = 256;                  // of positions, so that 0 means none
  // Steps that stand for infinitely many: their square is no less than `none`, and that of kRows - 1 more
  // fits.
  static constexpr int kFar = 256 - kRows;

  const PackedSlices& params;
  const void* codes_of_slices;  // of all images
  uint32_t* words;
  uint8_t* classes;

  // ---- A team's memory: four arrays of a word per strip and lane, with one strip more for the last voxel.
  struct Team {
    const PackedSlices& params;
    uint32_t* memory;
    int index, thread, lane, strip;

    __device__ int lanes() const { return 1 << params.lanes_log2; }
    __device__ int strips() const { return params.team_threads >> params.lanes_log2; }
    __device__ uint32_t* array(int which) const {
      return memory + (which * (strips() + 1) << params.lanes_log2);
    }
    __device__ int slot(int s) const { return (s << params.lanes_log2) + lane; }

    __device__ uint32_t& before(int s) const { return memory[slot(s)]; }    // last change of class, biased
    __device__ uint32_t& behind(int s) const { return array(1)[slot(s)]; }  // first one
    // [2 * thread]: what the parts of a search found. A search begins when changes of class have been used.
    __device__ uint32_t* keys() const { return memory; }
    __device__ uint32_t& window(int s) const { return array(2)[slot(s)]; }  // of a strip's first voxel
    __device__ uint32_t& site(int s) const { return array(3)[slot(s)]; }    // and its best sites
    // Intersection of the codes of two columns, then their union.
    __device__ uint32_t* seen() const { return array(4) + 2 * lane; }
  };

  __device__ Team team() const {
    const int index = int(threadIdx.x) / params.team_threads, thread = int(threadIdx.x) % params.team_threads;
    return Team{params,
                words + (params.team_offset + index * params.team_bytes) / 4,
                index,
                thread,
                thread & ((1 << params.lanes_log2) - 1),
                thread >> params.lanes_log2};
  }

  // The row of spacing on the device: there is none, as spacing is equal and known.
  __device__ const double* spacing(uint32_t) const { return nullptr; }

  // ---- Run codes

  // Codes of a row in two neighbouring columns.
  template <bool kWhole>
  __device__ uint32_t codes(const Run* row, int column) const {
    if (!kWhole) {
      const int last = params.extent[2] - 1;
      return uint32_t(row[smaller(column, last)]) | uint32_t(row[smaller(column + 1, last)]) << 16;
    }
    if (sizeof(Run) == 2) return *reinterpret_cast<const uint32_t*>(row + column);
    const uint32_t pair = *reinterpret_cast<const uint16_t*>(row + column);
    return __byte_perm(pair, 0, 0x4140);
  }

  // Codes of a strip, and of the voxel before it or again of its first.
  template <bool kWhole>
  __device__ void load(const Run* source, int first, int column, uint32_t (&code)[kRows],
                       uint32_t* before) const {
    const int last = params.extent[1] - 1, width = params.extent[2];
    const Run* row = source + smaller(first, last) * width;
    if (kSigned) *before = codes<kWhole>(first > 0 ? row - width : row, column);
    if (first + kRows <= params.extent[1]) {
#pragma unroll
      for (int i = 0; i < kRows; ++i, row += width) code[i] = codes<kWhole>(row, column);
      return;
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      code[i] = codes<kWhole>(row, column);
      if (first + i < last) row += width;
    }
  }

  // Their squares. Distances stay below 2^8, or are none.
  __device__ uint32_t squares(uint32_t code) const {
    constexpr int kTop = Code::kBits - 1;
    const uint32_t below = code & both(uint32_t(Code::kNone));
    uint32_t d = below + 0x00010001u;
    const uint32_t no_site = d & both(1u << kTop);
    if (sizeof(Run) == 2) d -= no_site;  // its square would not fit
    const uint32_t high = d & 0xffff0000u, low = d & 0xffffu;
    uint32_t square = high * (d >> 16) + low * low;
    if (sizeof(Run) == 2) {
      square |= (no_site >> kTop) * uint32_t(params.none);
    } else {
      square +=
          no_site * ((uint32_t(params.none) - (1u << 2 * kTop)) >> kTop);  // the plan's `none` leaves no rest
    }
    return kSigned ? square : square & spread_halves(code >> kTop);
  }

  // ---- One pass: strip by strip

  // Largest k with k^2 below both squares, as far as it matters.
  __device__ int reach(uint32_t square, int length) const {
    const int largest = larger(low_half(square), high_half(square));
    if (largest == 0) return 0;
    return smaller(int(root_of_integer(float(largest - 1))), length);  // as in Squares<int32_t>::reach
  }

  // Both halves' largest position before the strip and smallest position behind it where the class changes.
  __device__ void publish_changes(const Team& t, int first, uint32_t changes) const {
    uint32_t last = 0, next = 0xffffffffu;
    const int low = low_half(changes), high = high_half(changes), base = first + kBias;
    if (low != 0) {
      last = uint32_t(base + 31 - __clz(low));
      next = next & 0xffff0000u | uint32_t(base + __ffs(low) - 1);
    }
    if (high != 0) {
      last |= uint32_t(base + 31 - __clz(high)) << 16;
      next = next & 0xffffu | uint32_t(base + __ffs(high) - 1) << 16;
    }
    t.before(t.strip) = last;
    t.behind(t.strip) = next;
  }

  // From the changes within the strips to the last one before each strip, and the first one behind it: two
  // threads of a lane run along its strips, one in each direction. Between two barriers.
  __device__ void chain_changes(const Team& t, int strips) const {
    if (t.strip == 0) {
      uint32_t latest = 0;
      uint32_t* at = &t.before(0);
#pragma unroll 4
      for (int s = 0; s < strips; ++s, at += t.lanes()) {
        const uint32_t own = *at;
        *at = latest;
        latest = __vmaxu2(latest, own);
      }
    }
    if (t.strip == smaller(1, strips - 1)) {
      uint32_t next = 0xffffffffu;
      uint32_t* at = &t.behind(strips - 1);
#pragma unroll 4
      for (int s = 0; s < strips; ++s, at -= t.lanes()) {
        const uint32_t own = *at;
        *at = next;
        next = __vminu2(next, own);
      }
    }
  }

  // best = min(best, r^2): the strip's runs and their ends. A change at b lies between b - 1 and b.
  __device__ void offer_ends(const Team& t, int first, uint32_t changes, uint32_t (&best)[kRows]) const {
    const uint32_t before = t.before(t.strip), behind = t.behind(t.strip);
    // Steps from the strip's first voxel to the ends, or what stands for infinitely many: its square is above
    // every real one.
    const int base = first + kBias;
    const int up[2] = {smaller(base + 1 - low_half(before), kFar),
                       smaller(base + 1 - high_half(before), kFar)};
    constexpr int kFarBelow = kFar + kRows - 1;  // from the first voxel, kFar from the last
    const int down[2] = {smaller(low_half(behind) - base, kFarBelow),
                         smaller(high_half(behind) - base, kFarBelow)};
    if (changes == 0) {
      DTK_COUNT(pair_ends, 1);
      // As in offer_sites, with steps of their own in each half: sums and differences of numbers whose halves
      // do not leave 16 bits are exact in 32.
      uint32_t above = uint32_t(up[0] * up[0]) + (uint32_t(up[1] * up[1]) << 16) + both(kAbove);
      uint32_t below = uint32_t(down[0] * down[0]) + (uint32_t(down[1] * down[1]) << 16) + both(kAbove);
      const uint32_t up_twice = uint32_t(2 * up[0]) + (uint32_t(2 * up[1]) << 16);
      const uint32_t down_twice = uint32_t(2 * down[0]) + (uint32_t(2 * down[1]) << 16);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        best[i] = __vminu2(best[i] + left_out(i), __vminu2(above, below)) - left_out(i);
        above += up_twice;
        below -= down_twice;
      }
      return;
    }
    DTK_COUNT(pair_mixed, 1);
    uint32_t from_above[kRows];
    uint32_t steps = halves(uint32_t(up[0] - 1), uint32_t(up[1] - 1));
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      steps = (steps & ~spread_halves(changes >> i)) + 0x00010001u;
      from_above[i] = steps;
    }
    steps = halves(uint32_t(down[0] - kRows), uint32_t(down[1] - kRows));
#pragma unroll
    for (int i = kRows - 1; i >= 0; --i) {
      if (i + 1 < kRows) steps &= ~spread_halves(changes >> (i + 1));
      steps += 0x00010001u;
      const uint32_t r = __vminu2(steps, from_above[i]);
      const uint32_t square = (r & 0xffff0000u) * (r >> 16) + (r & 0xffffu) * (r & 0xffffu);
      best[i] = __vminu2(best[i], square);
    }
  }

  // (k - i)^2 = k^2 - 2 i k + i^2: the last term is left out of minima, so that a site's costs for the voxels
  // of a strip follow by one subtraction each. Both halves at once, as integers: every half of every cost is
  // a number in 16 bits.
  __device__ static uint32_t left_out(int i) { return both(kAbove - uint32_t(i * i)); }

  // best[i] = min(best[i], every site low .. high).
  __device__ void offer_sites(const PairedLine& line, int first, int low, int high,
                              uint32_t (&best)[kRows]) const {
    DTK_COUNT(pair_sites, larger(high - low + 1, 0));
#pragma unroll
    for (int i = 0; i < kRows; ++i) best[i] += left_out(i);
    int at = line.at(low), step = line.step(low);
    int k = low - first;
#pragma unroll 2
    for (int j = low; j <= high; ++j, ++k) {
      uint32_t cost = words[at] + both(uint32_t(k * k) + kAbove);
      const uint32_t twice = uint32_t(2 * k) * 0x00010001u;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        best[i] = __vminu2(best[i], cost);
        cost -= twice;
      }
      at += step;
      step = line.two - step;
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) best[i] -= left_out(i);
  }

  // best[i] = min(best[i], the two neighbours of voxel i).
  __device__ void offer_neighbours(const PairedLine& line, int first, int length,
                                   uint32_t (&best)[kRows]) const {
    DTK_COUNT(pair_neighbours, 1);
    // At an end of the line the voxel stands for its own neighbour, which it is no better than.
    uint32_t before = words[line.at(larger(first - 1, 0))];
    uint32_t now = words[line.at(first)];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const uint32_t after =
          words[line.at(i + 1 < kRows ? first + i + 1 : smaller(first + i + 1, length - 1))];
      best[i] = __vminu2(best[i], __vminu2(before, after) + 0x00010001u);
      before = now;
      now = after;
    }
  }

  // Cheapest of the sites low .. high for voxel p and each half: cost in the upper half of a key, site below.
  __device__ void search(const PairedLine& line, int p, int low, int high, uint32_t (&key)[2]) const {
    DTK_COUNT(pair_candidates, larger(high - low + 1, 0));
    key[0] = key[1] = 0xffffffffu;
    int at = line.at(low), step = line.step(low);
    const int k = low - p;
    uint32_t steps = (uint32_t(k * k) << 16) + uint32_t(low);
    uint32_t grows = (uint32_t(2 * k + 1) << 16) + 1;
#pragma unroll 4
    for (int j = low; j <= high; ++j) {
      const uint32_t word = words[at];
      key[0] = smaller(key[0], (word << 16) + steps);
      key[1] = smaller(key[1], (word & 0xffff0000u) + steps);
      steps += grows;
      grows += 2u << 16;
      at += step;
      step = line.two - step;
    }
  }

  // Best sites of all strips' first voxels and of the last voxel: of every fourth strip and the last voxel
  // first, then between them.
  __device__ void find_sites(const Team& t, const PairedLine& line, int length, bool with_lines) const {
    const int strips = length / kRows, last = length - 1;
#pragma unroll 1
    for (int level = 0; level < 2; ++level) {
      const int wide = (strips + 3) >> 2;  // strips of the first level
      const int positions = level == 0 ? wide + 1 : strips - wide;
      int parts_log2 = 0;
      while ((positions << (parts_log2 + 1)) <= t.strips()) ++parts_log2;
      // There are not more positions than strips, but for the last voxel of a line of a few strips. A thread
      // without a line may belong to no team, and have no memory.
#pragma unroll 1
      for (int i = with_lines ? t.strip >> parts_log2 : positions; i < positions;
           i += larger(t.strips() >> parts_log2, 1)) {
        DTK_COUNT(pair_positions, 1);
        const int part = t.strip & ((1 << parts_log2) - 1);
        const int s = level > 0 ? i + i / 3 + 1 : i < wide ? 4 * i : strips;
        const int p = smaller(s * kRows, last);
        const int window = int(t.window(s));
        int low = larger(p - window, 0), high = smaller(p + window, last);
        if (level > 0) {
          const uint32_t left = t.site(s & ~3), right = t.site(smaller((s | 3) + 1, strips));
          low = larger(low, smaller(low_half(left), high_half(left)));
          high = smaller(high, larger(low_half(right), high_half(right)));
        }
        const int share = (high - low + (1 << parts_log2)) >> parts_log2;
        uint32_t key[2];
        search(line, p, low + part * share, smaller(low + (part + 1) * share - 1, high), key);
        // Nothing within bounds: the voxel itself.
        if (key[0] == 0xffffffffu) key[0] = 0xffff0000u | uint32_t(p);
        if (key[1] == 0xffffffffu) key[1] = 0xffff0000u | uint32_t(p);
        if (parts_log2 == 0) {
          t.site(s) = halves(key[0], key[1] & 0xffffu);
        } else {
          t.keys()[2 * t.thread] = key[0];
          t.keys()[2 * t.thread + 1] = key[1];
        }
      }
      __syncthreads();
      if (parts_log2 > 0) {
        const int i = t.strip;
        if (with_lines && i < positions) {
          uint32_t key[2] = {0xffffffffu, 0xffffffffu};
#pragma unroll 2
          for (int part = 0; part < 1 << parts_log2; ++part) {
            const int other = ((i << parts_log2) + part << params.lanes_log2) + t.lane;
            key[0] = smaller(key[0], t.keys()[2 * other]);
            key[1] = smaller(key[1], t.keys()[2 * other + 1]);
          }
          const int s = level > 0 ? i + i / 3 + 1 : i < wide ? 4 * i : strips;
          t.site(s) = halves(key[0], key[1] & 0xffffu);
        }
        __syncthreads();
      }
    }
  }

  // Solves a strip of a pair of lines whose squares are in memory, or about to be: `best` holds its own.
  // Returns after a barrier, with all lines of the tile read. A thread `with_lines` but no strip, where the
  // other axis is longer, only helps to search.
  __device__ void solve(const Team& t, const PairedLine& line, int length, bool with_lines, uint32_t changes,
                        uint32_t alive, uint32_t (&best)[kRows]) const {
    const int first = t.strip * kRows;
    const bool mine = with_lines && first < length;
    if (kSigned) {
      if (with_lines) chain_changes(t, length / kRows);
      __syncthreads();
    }
    if (kSigned && mine) offer_ends(t, first, changes, best);
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) largest = __vmaxu2(largest, best[i]);
    int reach = mine ? this->reach(largest & alive, length) : 0;
    const bool far = __syncthreads_or(reach > kNear) != 0 && length > 2 * kRows;
    int low = first - reach, high = first + kRows - 1 + reach;
    if (far) {
      if (mine) {
        t.window(t.strip) = uint32_t(this->reach(best[0] & alive, length));
        if (first + kRows == length)
          t.window(t.strip + 1) = uint32_t(this->reach(best[kRows - 1] & alive, length));
      }
      __syncthreads();
      find_sites(t, line, length, with_lines);
      if (mine) {
        const uint32_t left = t.site(t.strip), right = t.site(t.strip + 1);
        low = larger(low, smaller(low_half(left), high_half(left)));
        high = smaller(high, larger(low_half(right), high_half(right)));
      }
    }
    low = larger(low, 0);
    high = smaller(high, length - 1);
    if (reach > 0 && reach <= kNear) {
      offer_neighbours(line, first, length, best);
      largest = 0;
#pragma unroll
      for (int i = 0; i < kRows; ++i) largest = __vmaxu2(largest, best[i]);
      reach = this->reach(largest & alive, length);
      if (reach == 1) reach = 0;
      low = larger(low, first - reach);
      high = smaller(high, first + kRows - 1 + reach);
    }
    if (reach > 0) offer_sites(line, first, low, high, best);
    __syncthreads();
  }

  // ---- The two passes

  __device__ int height() const { return (params.extent[1] + kRows - 1) & -kRows; }
  __device__ int width() const { return (params.extent[2] + kRows - 1) & -kRows; }

  // All columns, from run codes, or all rows: one loop for both, so that the solver is compiled once. Returns
  // what the thread's codes hold: bit 0 a finite distance, 1 foreground, 2 background.
  __device__ uint32_t pass(uint32_t slice, bool rows) const {
    const Team t = team();
    const int length = rows ? width() : height(), half = height() >> 1;
    const int pairs = rows ? (params.extent[1] + 1) >> 1 : width() >> 1;
    const int first = t.strip * kRows;
    uint32_t found = 0;
#pragma unroll 1
    for (int tile = 0; tile < pairs; tile += params.teams << params.lanes_log2) {
      const int pair = tile + t.index * t.lanes() + t.lane;
      const bool with_lines = t.index < params.teams && pair < pairs, mine = with_lines && first < length;
      const PairedLine line{rows ? pair * params.pitch : pair, rows ? half * params.pitch : params.pitch,
                            rows ? 1 : 2 * params.pitch};
      if (!rows && with_lines && t.strip == 0) {
        t.seen()[0] = 0xffffffffu;
        t.seen()[1] = 0;
      }
      __syncthreads();
      uint32_t best[kRows], changes = 0;
#pragma unroll
      for (int i = 0; i < kRows; ++i) best[i] = 0;
      if (mine) {
        DTK_COUNT(pair_strips, 1);
        if (rows) {
#pragma unroll
          for (int i = 0; i < kRows; ++i) best[i] = words[line.at(first + i)];
          if (kSigned) changes = changes_of_rows(pair, first);
        } else {
          found |= load_column(slice, t, line, pair, best, &changes);
        }
        if (kSigned) publish_changes(t, first, changes);
      }
      __syncthreads();
      uint32_t alive = 0xffffffffu;
      if (!rows && mine) {
        const uint32_t all = t.seen()[0], any = t.seen()[1];
        alive = column_alive(all & 0xffffu, any & 0xffffu) ? 0xffffu : 0u;
        if (column_alive(all >> 16, any >> 16)) alive |= 0xffff0000u;
      }
      solve(t, line, length, with_lines, changes, alive, best);
      if (!mine) continue;
      if (rows) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) words[line.at(first + i)] = best[i];
      } else {
        // Two rows of two columns become two columns of two rows.
        uint32_t* to = words + (first >> 1) * params.pitch + pair;
#pragma unroll
        for (int i = 0; i < kRows; i += 2, to += params.pitch) {
          to[0] = __byte_perm(best[i], best[i + 1], 0x5410);
          to[half * params.pitch] = __byte_perm(best[i], best[i + 1], 0x7632);
        }
      }
    }
    return found;
  }

  // A strip's codes as squares, in memory too, and what they say of classes.
  __device__ uint32_t load_column(uint32_t slice, const Team& t, const PairedLine& line, int pair,
                                  uint32_t (&best)[kRows], uint32_t* changes) const {
    constexpr uint32_t kTop = uint32_t(1) << (Code::kBits - 1);
    const Run* source =
        static_cast<const Run*>(codes_of_slices) + int64_t(slice) * params.extent[1] * params.extent[2];
    const int first = t.strip * kRows;
    uint32_t code[kRows], before = 0;
    if ((params.extent[2] & 1) == 0 && 2 * pair < params.extent[2]) {
      load<true>(source, first, 2 * pair, code, &before);
    } else {
      load<false>(source, first, 2 * pair, code, &before);
    }
    uint32_t all = 0xffffffffu, any = 0, bits = 0;
    uint32_t* to = words + line.at(first);
#pragma unroll
    for (int i = 0; i < kRows; ++i, to += params.pitch) {
      all &= code[i];
      any |= code[i];
      best[i] = squares(code[i]);
      *to = best[i];
      bits |= (code[i] >> (Code::kBits - 1) & 0x00010001u) << i;
    }
    if (kSigned) {
      *changes = changed(bits, before >> (Code::kBits - 1) & 0x00010001u);
#pragma unroll
      for (int byte = 0; byte < kRows / 8; ++byte) {
        const int row = kRows / 8 * t.strip + byte;
        *reinterpret_cast<uint16_t*>(classes + row * params.classes_pitch + 2 * pair) =
            uint16_t(__byte_perm(bits, 0, byte == 0 ? 0x4420 : 0x4431));
      }
    }
    atomicAnd(t.seen(), all);
    atomicOr(t.seen() + 1, any);
    all &= all >> 16;
    any |= any >> 16;
    return uint32_t((all & uint32_t(Code::kNone)) != uint32_t(Code::kNone)) |
           uint32_t((any & kTop) != 0) << 1 | uint32_t((all & kTop) == 0) << 2;
  }

  // Whether a column has a site and something to solve, from the intersection and the union of its codes.
  __device__ static bool column_alive(uint32_t all, uint32_t any) {
    constexpr uint32_t kTop = uint32_t(1) << (Code::kBits - 1);
    const bool finite = (all & uint32_t(Code::kNone)) != uint32_t(Code::kNone);
    const bool foreground = (any & kTop) != 0, background = (all & kTop) == 0;
    return kSigned ? finite || (foreground && background) : foreground && (finite || background);
  }

  // Bit i of a half: whether the class of voxel i differs from that of the voxel before it.
  __device__ static uint32_t changed(uint32_t bits, uint32_t before) {
    return bits ^ (bits << 1 & both((1u << kRows) - 2u) | before);
  }

  // The same along two rows: bit i of a half, between columns first + i - 1 and first + i.
  __device__ uint32_t changes_of_rows(int pair, int first) const {
    const uint8_t* from = classes + (pair >> 2) * params.classes_pitch + first;
    const int shift = 2 * pair & 7;
    // The lowest bits of four bytes, side by side: no two products of the multiplication meet in a bit.
    const auto gather = [](uint32_t bytes) { return (bytes & 0x01010101u) * 0x01020408u >> 24; };
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < kRows; i += 4) {
      const uint32_t four = *reinterpret_cast<const uint32_t*>(from + i) >> shift;
      bits |= gather(four) << i | gather(four >> 1) << (16 + i);
    }
    const uint32_t byte_before = uint32_t(from[first > 0 ? -1 : 0]) >> shift;
    const uint32_t before = (byte_before & 1u) | (byte_before & 2u) << 15;
    return changed(bits, before);
  }

  // ---- Border and epilogue, in the order of the memory

  template <typename End>
  __device__ void store(uint32_t slice, End& end) const {
    using S = Squares<int32_t>;
    if constexpr (End::kPairs) {
      if (end.plain() && has_pairs()) {
        store_pairs(slice, end);
        return;
      }
    }
    const int height = params.extent[1], width = params.extent[2], half = this->height() >> 1;
    const int z = int(slice % uint32_t(params.extent[0]));
    const int64_t start = int64_t(slice) * height * width;
    // Threads in rows of whole warps, each of which keeps to its columns.
    const int across = smaller((width + 31) & ~31, int(blockDim.x));
    const int down = int(blockDim.x) / across, row = int(threadIdx.x) / across;
    for (int x = int(threadIdx.x) % across; x < width && row < down; x += across) {
      const uint32_t* from = words + (row + (x & 1) * half) * params.pitch + (x >> 1);
      for (int y = 2 * row; y < height; y += 2 * down, from += down * params.pitch) {
        const uint8_t* from_class = classes + ((y >> 3) * params.classes_pitch + x);
        const uint32_t word = *from, bits = kSigned ? uint32_t(*from_class) >> (y & 7) : 0u;
        const uint32_t target = kJoint ? from[-params.team_offset / 4] : 0u;
        const uint32_t target_bits = kJoint ? uint32_t(from_class[-params.team_offset]) >> (y & 7) : 0u;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (y + i >= height) break;
          const bool negative = kSigned && (bits >> i & 1) != 0;
          const auto half = [&](uint32_t word) {
            const S::Cost cost = i == 0 ? word & 0xffffu : word >> 16;
            return !End::kPlain && cost == S::Cost(params.none) ? S::Cost(S::none()) : cost;
          };
          S::Cost cost = half(word);
          if (!kJoint && !End::kPlain && params.closed && (!kSigned || negative)) {
            const S unit(1.0f);
            cost = smaller(cost, unit.steps(smaller(z + 1, params.extent[0] - z)));
            cost = smaller(cost, unit.steps(smaller(y + i + 1, height - y - i)));
            cost = smaller(cost, unit.steps(smaller(x + 1, width - x)));
          }
          const int64_t at = start + ((y + i) * width + x);
          if constexpr (kJoint) {  // sums know no closed border
            end.write(at, cost, negative, half(target), (target_bits >> i & 1) != 0);
          } else {
            end.write(at, cost, negative);
          }
        }
      }
    }
  }

  // What is plain, in blocks of two by two voxels, where pairs of columns are whole.
  __device__ bool has_pairs() const {
    return (params.extent[2] & 1) == 0 && (reinterpret_cast<uint64_t>(params.at.target) & 7) == 0;
  }

  template <typename End>
  __device__ void store_pairs(uint32_t slice, End& end) const {
    const int height = params.extent[1], width = params.extent[2], pairs = width >> 1;
    const int odd = (this->height() >> 1) * params.pitch;
    float* out = static_cast<float*>(params.at.target) + int64_t(slice) * height * width;
    const int across = smaller((pairs + 31) & ~31, int(blockDim.x));
    const int down = int(blockDim.x) / across, row = int(threadIdx.x) / across;
    for (int pair = int(threadIdx.x) % across; pair < pairs && row < down; pair += across) {
      const uint32_t* from = words + row * params.pitch + pair;
      float* to = out + 2 * (row * width + pair);
      for (int y = 2 * row; y < height; y += 2 * down, from += down * params.pitch, to += 2 * down * width) {
        const uint32_t left = from[0], right = from[odd];
        uint32_t bits = 0;  // of the left column, and of the right one from bit 8 on
        if (kSigned) {
          const uint8_t* at = classes + (y >> 3) * params.classes_pitch + 2 * pair;
          bits = uint32_t(*reinterpret_cast<const uint16_t*>(at)) >> (y & 7);
        }
        const auto distance = [&](uint32_t cost, int bit) { return end.value(cost, bits << (31 - bit)); };
        *reinterpret_cast<float2*>(to) = float2{distance(left & 0xffffu, 0), distance(right & 0xffffu, 8)};
        if (y + 1 < height)
          *reinterpret_cast<float2*>(to + width) = float2{distance(left >> 16, 1), distance(right >> 16, 9)};
      }
    }
  }
};

// Params: PackedSlices, or Weighed<PackedSlices>; kJoint: with the target's run codes in `weighing.other`.
template <typename Run, bool kSigned, int kRows, typename Params = PackedSlices, bool kJoint = false>
__global__ void __launch_bounds__(kRows == 16 ? 256 : 1024, kRows == 16 ? 3 : 1)
    packed_slices(const __grid_constant__ Params params) {
  DTK_DYNAMIC_SHARED(uint64_t, dynamic_shared);  // for its alignment
  unsigned char* shared = reinterpret_cast<unsigned char*>(dynamic_shared);
  DTK_SHARED(uint32_t, found, 1 + kJoint);
  PackedSlice<Run, kSigned, kRows, kJoint> slice{params, params.at.source, nullptr, nullptr};
  for (uint32_t item = blockIdx.x; item < params.slices; item += gridDim.x) {
    if (threadIdx.x <= kJoint) found[threadIdx.x] = 0;
    bool alive = true;
#pragma unroll 1
    for (int image = 0; image <= kJoint; ++image) {
      unsigned char* memory = shared + image * params.team_offset;
      slice.words = reinterpret_cast<uint32_t*>(memory);
      slice.classes = memory + params.classes_offset;
      if constexpr (kJoint) slice.codes_of_slices = image == 0 ? params.weighing.other : params.at.source;
      alive = true;
#pragma unroll 1
      for (int turn = 0; turn < 2 && alive; ++turn) {
        const uint32_t own = warp_or(slice.pass(item, turn != 0));  // after barriers
        if (threadIdx.x % 32 == 0 && turn == 0) atomicOr(&found[image], own);
        __syncthreads();
        const bool finite = (found[image] & 1) != 0, foreground = (found[image] & 2) != 0,
                   background = (found[image] & 4) != 0;
        alive = kSigned ? finite || (foreground && background) : foreground && (finite || background);
      }
    }
    write_slice<int32_t, kSigned>(params, slice, item, params.plain != 0 && alive);
    __syncthreads();  // the next slice overwrites this one
  }
}

}  // namespace dtk
