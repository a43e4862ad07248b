// The passes as transform.cpp calls them. The scan turns the mask into codes; then every slice goes through
// the y axis and the x axis while it is in cache:
//
//   codes -> columns, lanes along x -> solve y -> transpose -> rows, lanes along y -> solve x -> transpose
//         -> square root, sign and spacing -> output
//
// Intermediate values never leave the cache; per voxel, memory sees the mask, one code written and read,
// and one float written.
#pragma once
#include "faces.h"
#include "line_solver.h"
#include "passes.h"
#include "read_mask.h"
#include "scan.h"
#include "transpose.h"

namespace dtk::cpu::DTK_ISA {

static_assert(kTile == kLanes, "a tile is one vector wide");

inline int round_up(int n, int step) { return (n + step - 1) / step * step; }
inline int smaller(int a, int b) { return a < b ? a : b; }

// --- Workspace of one thread ---

struct SliceWorkspace {
  uint32_t *in, *out;              // lines of the longer axis
  uint32_t *words_in, *words_out;  // and what they carry to faces
  uint8_t* columns;                // which columns hold foreground
  LineScratch line;
};

// Lays the workspace out from the address `base` on, 64-byte aligned; the return value is its end.
inline uintptr_t lay_out(const ImageTask& task, uintptr_t base, SliceWorkspace& ws) {
  const int n = round_up(task.height > task.width ? task.height : task.width, kLanes);
  const int landmarks = n / 16 + 2;
  const auto take = [&base](auto*& array, size_t bytes) {
    array = reinterpret_cast<decltype(+array)>(base);
    base += (bytes + 63) / 64 * 64;
  };
  take(ws.in, size_t(n) * sizeof(Vec));
  take(ws.out, size_t(n) * sizeof(Vec));
  take(ws.words_in, task.to_faces ? size_t(n) * sizeof(Vec) : 0);
  take(ws.words_out, task.to_faces ? size_t(n) * sizeof(Vec) : 0);
  take(ws.columns, size_t(n));
  for (int c = 0; c < 2; c++) {
    take(ws.line.landmarks[c], size_t(landmarks) * sizeof(Landmark));
    take(ws.line.wanted[c], size_t(landmarks) * sizeof(int));
  }
  take(ws.line.kind, size_t(landmarks));
  return base;
}

inline size_t slice_workspace(const ImageTask& task) {
  SliceWorkspace ws;
  return size_t(lay_out(task, 0, ws));
}

inline SliceWorkspace workspace_at(const ImageTask& task, char* base) {
  SliceWorkspace ws;
  lay_out(task, reinterpret_cast<uintptr_t>(base), ws);
  return ws;
}

// Rows between groups of 16 lines in `turned`: 16 more than needed, since a pitch that is a power of two
// would map all groups to the same few sets of the cache.
inline int turned_pitch(int width) { return round_up(width, kLanes) + kLanes; }
inline size_t turned_values(const ImageTask& task) {
  return size_t(round_up(task.height, kLanes) / kLanes) * turned_pitch(task.width) * kLanes;
}
inline size_t turned_size(const ImageTask& task) {  // words follow the values
  return turned_values(task) * (task.to_faces ? 2 : 1) * sizeof(uint32_t);
}

// --- First axis ---

// A row of the plane across the scanned axis, as bytes.
class MaskRows {
 public:
  MaskRows(const ImageTask& task, int64_t first, int64_t columns, uint8_t* buffer)
      : task_(task), first_(first), columns_(columns), buffer_(buffer) {
    const int64_t* stride = task.image.stride + 2;
    step_ = stride[task.scan_axis];
    stride_y_ = stride[1];
    stride_x_ = task.width == 1 ? stride_y_ : stride[2];  // an axis of length 1 may have any stride
    one_run_ = task.scan_axis > 0 || task.height == 1 || stride_y_ == task.width * stride_x_;
    direct_ = one_run_ && stride_x_ == 1 && task.image.dtype == kUInt8 && task.image.rule == kNonZero;
  }

  const uint8_t* operator()(int p) const {
    const int64_t start = task_.offset + p * step_;
    if (direct_) return static_cast<const uint8_t*>(task_.image.data) + start + first_;
    if (one_run_) {
      read_run(task_.image, start + first_ * stride_x_, stride_x_, columns_, task_.class_index, buffer_);
      return buffer_;
    }
    for (int64_t done = 0; done < columns_;) {
      const int64_t y = (first_ + done) / task_.width, x = (first_ + done) % task_.width;
      const int64_t rest = columns_ - done, count = task_.width - x < rest ? task_.width - x : rest;
      read_run(task_.image, start + y * stride_y_ + x * stride_x_, stride_x_, count, task_.class_index,
               buffer_ + done);
      done += count;
    }
    return buffer_;
  }

 private:
  const ImageTask& task_;
  int64_t first_, columns_, step_, stride_y_, stride_x_;
  uint8_t* buffer_;
  bool one_run_, direct_;
};

inline size_t scan_workspace(const ImageTask& task, int64_t columns) {
  return task.scan_axis == 2 ? size_t(task.width) : size_t(columns) * 3;
}

template <class Code>
inline void scan_columns_as(const ImageTask& task, int64_t first, int64_t columns, char* workspace) {
  Code* codes = static_cast<Code*>(task.codes) + first;
  if (task.scan_axis == 2) {
    uint8_t* mask = reinterpret_cast<uint8_t*>(workspace);
    read_run(task.image, task.offset, task.image.stride[4], task.width, task.class_index, mask);
    scan_line<Code>(mask, task.width, task.closed, codes);
    return;
  }
  Code* behind = reinterpret_cast<Code*>(workspace);
  const MaskRows rows(task, first, columns, reinterpret_cast<uint8_t*>(behind + columns));
  if (task.scan_axis == 1) {
    scan<Code>(rows, task.height, columns, task.closed, codes, task.width, behind);
  } else {
    scan<Code>(rows, task.depth, columns, task.closed, codes, int64_t(task.height) * task.width, behind);
  }
}

inline void scan_columns(const ImageTask& task, int64_t first, int64_t columns, char* workspace) {
  if (task.wide_codes) {
    scan_columns_as<uint16_t>(task, first, columns, workspace);
  } else {
    scan_columns_as<uint8_t>(task, first, columns, workspace);
  }
}

inline void tabulate_cost(bool exact, float weight, int n, uint32_t* cost) {
  for (int k = 0; k <= n + kCostMargin; k++) {
    cost[k] = cost[-k] = exact ? ExactSquares::cost(weight, k) : RoundedSquares::cost(weight, k);
  }
}

// --- Slices ---

// The foreground's bounding box in rows [y0, y1) of a slice, and one voxel around it: no nearest background
// voxel of this slice lies further out, because every run of foreground along x or y ends at most one
// voxel outside the box.
template <class Code>
inline Box foreground_box(const Code* codes, int width, int y0, int y1, uint8_t* columns) {
  constexpr int kShift = CodeBits<Code>::kShift;
  memset(columns, 0, size_t(width));
  Box box = {y1, y0, 0, width};
  for (int y = y0; y < y1; y++) {
    const Code* __restrict row = codes + int64_t(y) * width;
    uint8_t* __restrict seen = columns;
    uint8_t any = 0;
    for (int x = 0; x < width; x++) {
      const uint8_t bit = uint8_t(row[x] >> kShift);
      seen[x] |= bit;
      any |= bit;
    }
    if (any) {
      if (box.y0 == y1) box.y0 = y;
      box.y1 = y + 1;
    }
  }
  if (box.y0 == y1) return {y0, y0, 0, 0};
  while (!columns[box.x0]) box.x0++;
  while (!columns[box.x1 - 1]) box.x1--;
  if (box.y0 > y0) box.y0--;
  if (box.y1 < y1) box.y1++;
  box.x0 = (box.x0 > 0 ? box.x0 - 1 : 0) / kLanes * kLanes;
  box.x1 = smaller(round_up(box.x1 + 1, kLanes), width);
  return box;
}

// Zeroes, past the caches where the output is too large for them: a plain store would read each line first.
inline void clear(float* p, int64_t count, bool streaming) {
  if (streaming) {
    for (; count > 0 && (reinterpret_cast<uintptr_t>(p) & 63) != 0; count--) *p++ = 0.0f;
    const Vec zero = broadcast(0u);
    for (; count >= kLanes; count -= kLanes, p += kLanes) store_streaming(p, zero);
  }
  memset(p, 0, size_t(count) * sizeof(float));
}

// Unsigned transforms: zero outside the box, which is what remains to do.
inline Box prepare_slice(const ImageTask& task, int z, int y0, int y1, char* workspace) {
  if (task.is_signed) return {y0, y1, 0, task.width};
  SliceWorkspace ws = workspace_at(task, workspace);
  const int width = task.width;
  const int64_t start = int64_t(z) * task.height * width;
  const Box box =
      task.wide_codes
          ? foreground_box(static_cast<const uint16_t*>(task.codes) + start, width, y0, y1, ws.columns)
          : foreground_box(static_cast<const uint8_t*>(task.codes) + start, width, y0, y1, ws.columns);
  float* out = task.out + (start - task.out_begin);
  const bool streaming = task.streaming;
  clear(out + int64_t(y0) * width, int64_t(box.y0 - y0) * width, streaming);
  clear(out + int64_t(box.y1) * width, int64_t(y1 - box.y1) * width, streaming);
  if (box.x0 > 0 || box.x1 < width) {
    for (int y = box.y0; y < box.y1; y++) {
      clear(out + int64_t(y) * width, box.x0, streaming);
      clear(out + int64_t(y) * width + box.x1, width - box.x1, streaming);
    }
  }
  return box;
}

// Sixteen codes as squared distances, with the class in the sign bit if signed; else background is 0.
template <class Arithmetic, bool kSigned, class Code>
inline Vec expand(const Code* codes, const Vec& weight) {
  using Bits = CodeBits<Code>;
  const Vec code = widen(codes), none = broadcast(uint32_t(Bits::kNone));
  const Vec steps = code & none, kind = shift_left(code, 31 - Bits::kShift);
  const Vec squared = select(equal(steps, none), broadcast(Arithmetic::kNone),
                             Arithmetic::square(steps + broadcast(1u), weight));
  if (kSigned) return squared | (kind & broadcast(kSignBit));
  return squared & copy_sign_bit_everywhere(kind);
}

// Closed images: for foreground voxels, background lies one step beyond either end of the axis, at the same
// place on the other axes. So this clamps what the solver found for an axis, and the axes to come carry it
// on. `first` is the position of row 0 on the axis, whose length is `length`.
template <bool kSigned>
inline void close_border(uint32_t* rows, int n, int first, int length, const uint32_t* cost) {
  const Vec sign_bit = broadcast(kSignBit);
  for (int i = 0; i < n; i++) {
    const int p = first + i;
    const Vec edge = broadcast(cost[smaller(p + 1, length - p)]);
    const Vec g = load(rows + size_t(i) * kLanes);
    if (kSigned) {
      const Vec sign = g & sign_bit;
      const Vec closer = min_unsigned(g ^ sign, edge) | sign;
      store(rows + size_t(i) * kLanes, select(equal(sign, sign_bit), closer, g));
    } else {
      store(rows + size_t(i) * kLanes, min_unsigned(g, edge));
    }
  }
}

template <class Arithmetic, bool kSigned>
inline Vec finish(const Vec& v, bool squared, const Vec& scale) {
  const Vec sign = kSigned ? v & broadcast(kSignBit) : broadcast(0u);
  Vec f = Arithmetic::to_float(v ^ sign);
  if (!squared) f = sqrt_float(f);
  return multiply_float(f, scale) | sign;
}

// Sixteen codes as what their squares carry along the next axis, where this is their row. Lines without a
// change of class carry no steps: for voxels of the other class their place counts.
template <class Code>
inline Vec first_words(const Code* codes, int row, uint32_t tag) {
  using Bits = CodeBits<Code>;
  const Vec code = widen(codes), kind = shift_left(code, 31 - Bits::kShift) & broadcast(kSignBit);
  const Vec steps = (code + broadcast(1u)) & broadcast(uint32_t(Bits::kNone));
  return kind | broadcast(uint32_t(row) << kPlaceShift) | farthest(steps, tag);
}

// The largest finite values on either side of the boundary: squares as the solver leaves them, or distances,
// which order like squares in RoundedSquares.
//
// Adding 2^31 - kNone makes "none" the lowest of all signed integers, while distances stay in order; and so
// does a sign bit, on the side that it does not belong to. (With that sign, "none" becomes 0, which is not
// above any distance either.) What has no side of its own counts as 0 there.
template <class Arithmetic, bool kSigned, bool kSquares>
class Extrema {
 public:
  void take(const Vec& v) {
    inside_ = max_signed(inside_, (kSigned ? v ^ broadcast(kSignBit) : v) + broadcast(kAbove));
    if (kSigned) outside_ = max_signed(outside_, v + broadcast(kAbove));
  }

  void merge(const ImageTask& task) const {
    raise(task.extrema, inside_, task.extrema_scale);
    if (kSigned) raise(task.extrema + 1, outside_, task.extrema_scale);
  }

 private:
  static constexpr uint32_t kAbove = kSignBit - Arithmetic::kNone;

  static void raise(float* largest, const Vec& taken, float scale) {
    const float top = Arithmetic::value(max_of_lanes(taken) - kAbove), value = top * (kSquares ? scale : top);
    raise_float(largest, value <= __FLT_MAX__ ? value : 0.0f);
  }

  Vec inside_ = broadcast(kAbove), outside_ = inside_;
};

// The passes over slices, for one combination of arithmetic, sign and code; kFaces: to faces.
template <class Arithmetic, bool kSigned, class Code, bool kFaces>
struct SlicePass {
  // At equal spacing all distances lose the same.
  static constexpr bool kCarry = kFaces && !Arithmetic::kExact;
  using Solver = LineSolver<Arithmetic, kSigned, kCarry>;
  using Largest =
      std::conditional_t<kFaces, Extrema<RoundedSquares, kSigned, false>, Extrema<Arithmetic, kSigned, true>>;

  static const Code* codes_of(const ImageTask& task, int z) {
    return static_cast<const Code*>(task.codes) + int64_t(z) * task.height * task.width;
  }

  // y axis, for the 16 columns from tile * 16 on; past the end of a row the lanes hold voxels of the next
  // row (or the padding), and are dropped by do_rows.
  static void do_columns(const ImageTask& task, int z, const Box& box, int tile, SliceWorkspace& ws,
                         uint32_t* turned) {
    const int n = box.y1 - box.y0, x = tile * kLanes;
    const Vec weight = broadcast(task.scan_weight);
    const Code* codes = codes_of(task, z) + int64_t(box.y0) * task.width + box.x0 + x;
    for (int y = 0; y < n; y++) {
      const Code* row = codes + int64_t(y) * task.width;
      store(ws.in + size_t(y) * kLanes, expand<Arithmetic, kSigned>(row, weight));
      if (kCarry) store(ws.words_in + size_t(y) * kLanes, first_words(row, y, task.faces.z_tag));
    }
    Solver(task.y, ws.line).solve(ws.in, n, ws.out, ws.words_in, ws.words_out);
    if (task.closed) close_border<kSigned>(ws.out, n, box.y0, task.height, task.y.cost);

    const int groups = round_up(n, kLanes) / kLanes, pitch = turned_pitch(box.x1 - box.x0);
    const Vec last = load(ws.out + size_t(n - 1) * kLanes);
    for (int y = n; y < groups * kLanes; y++) store(ws.out + size_t(y) * kLanes, last);
    for (int g = 0; g < groups; g++) {
      Vec block[kLanes];
      for (int i = 0; i < kLanes; i++) block[i] = load(ws.out + (size_t(g) * kLanes + i) * kLanes);
      transpose(block);
      for (int i = 0; i < kLanes; i++) store(turned + (size_t(g) * pitch + x + i) * kLanes, block[i]);
      if (!kCarry) continue;
      for (int i = 0; i < kLanes; i++) {
        const size_t at = (size_t(g) * kLanes + i) * kLanes;
        block[i] = after_y(task.faces, load(ws.out + at), load(ws.words_out + at), g * kLanes + i);
      }
      transpose(block);
      store_words(block, x, turned + turned_values(task) + (size_t(g) * pitch + x) * kLanes);
    }
  }

  // x axis, for the 16 rows from tile * 16 on, and the output.
  static void do_rows(const ImageTask& task, int z, const Box& box, int tile, SliceWorkspace& ws,
                      uint32_t* turned) {
    const int n = box.x1 - box.x0, y = box.y0 + tile * kLanes, rows = smaller(kLanes, box.y1 - y);
    uint32_t *in = ws.in, *words = ws.words_in;
    if (turned) {
      in = turned + size_t(tile) * turned_pitch(n) * kLanes;
      words = in + turned_values(task);
    } else {
      load_rows(task, codes_of(task, z) + int64_t(y) * task.width + box.x0, rows, n, in, words);
    }
    Solver(task.x, ws.line).solve(in, n, ws.out, words, ws.words_out);
    if (task.closed) close_border<kSigned>(ws.out, n, box.x0, task.width, task.x.cost);

    float* out = task.out + ((int64_t(z) * task.height + y) * task.width + box.x0 - task.out_begin);
    const bool aligned = ((reinterpret_cast<uintptr_t>(out) | size_t(task.width) * sizeof(float)) & 63) == 0;
    const bool stream = task.streaming && aligned;
    const Vec scale = broadcast(task.scale);
    const Ends ends = kCarry && task.closed ? ends_of(task, z, y) : Ends();
    Largest extrema;
    for (int x = 0; x < n; x += kLanes) {
      Vec block[kLanes];
      for (int i = 0; i < kLanes; i++) {
        block[i] = load(ws.out + size_t(x + i) * kLanes);
        if (kFaces) block[i] = to_faces(task, block[i], across(task, block[i], ws.words_out, x + i, ends));
      }
      transpose(block);
      if (task.extrema) {
        const Vec real = first_lanes(n - x);
        for (int i = 0; i < rows; i++) extrema.take(block[i] & real);
      }
      float* to = out + x;
      for (int i = 0; i < rows; i++, to += task.width) {
        const Vec v = kFaces ? block[i] : finish<Arithmetic, kSigned>(block[i], task.squared, scale);
        if (x + kLanes > n) {
          store_some(to, v, n - x);
        } else if (stream) {
          store_streaming(to, v);
        } else {
          store(to, v);
        }
      }
    }
    if (task.extrema) extrema.merge(task);
  }

  // Two-dimensional images: the rows come straight from the codes. Missing rows repeat the last.
  static void load_rows(const ImageTask& task, const Code* codes, int rows, int n, uint32_t* in,
                        uint32_t* words) {
    const Vec weight = broadcast(task.scan_weight);
    const auto row = [&](int i) { return codes + int64_t(smaller(i, rows - 1)) * task.width; };
    for (int x = 0; x < n; x += kLanes) {
      Vec block[kLanes];
      for (int i = 0; i < kLanes; i++) block[i] = expand<Arithmetic, kSigned>(row(i) + x, weight);
      transpose(block);
      for (int i = 0; i < kLanes; i++) store(in + size_t(x + i) * kLanes, block[i]);
      if (!kCarry) continue;
      for (int i = 0; i < kLanes; i++) block[i] = first_words(row(i) + x, 0, 1 - task.faces.z_tag);
      transpose(block);
      store_words(block, x, words + size_t(x) * kLanes);
    }
  }

  // Rows of the x axis from x on, with their places.
  static void store_words(const Vec* block, int x, uint32_t* to) {
    for (int i = 0; i < kLanes; i++) {
      store(to + size_t(i) * kLanes, block[i] | broadcast(uint32_t(x + i) << kPlaceShift));
    }
  }

  // The squares of foreground voxels that are nearest to what is beyond an end of the y axis, or of the z
  // axis.
  struct Ends {
    Vec y, z;
  };
  static Ends ends_of(const ImageTask& task, int z, int y) {
    const auto steps = [](int p, int length) { return smaller(p + 1, length - p); };
    uint32_t of_y[kLanes];
    for (int i = 0; i < kLanes; i++) of_y[i] = task.y.cost[steps(y + i, task.height)] | kSignBit;
    const bool volume = task.scan_axis == 0;
    const uint32_t of_z = volume ? RoundedSquares::cost(task.scan_weight, steps(z, task.depth)) : 0;
    return {load(of_y), broadcast(of_z | kSignBit)};
  }

  // Half the spacing that row x loses.
  static Vec across(const ImageTask& task, const Vec& v, const uint32_t* words, int x, const Ends& ends) {
    const float* half = task.faces.half;
    if (!kCarry) return broadcast(half[2]);
    const Vec inner = after_x(task.faces, v, load(words + size_t(x) * kLanes), x);
    if (!task.closed) return inner;
    const Vec end = broadcast(task.x.cost[smaller(x + 1, task.width - x)] | kSignBit);
    const Vec by_x = select(equal(v, end), broadcast(half[2]), inner);
    const Vec by_y = select(equal(v, ends.y), broadcast(half[1]), by_x);
    return select(equal(v, ends.z), broadcast(half[0]), by_y);
  }

  static Vec to_faces(const ImageTask& task, const Vec& v, const Vec& half) {
    const Vec sign_bit = broadcast(kSignBit), sign = v & sign_bit;
    const Vec d = finish<Arithmetic, false>(v ^ sign, false, broadcast(task.scale));
    return add_float(d, half | sign_bit) | sign;
  }

  // One-dimensional images: the scan was all there is to do.
  static void do_line(const ImageTask& task) {
    const Code* codes = static_cast<const Code*>(task.codes);
    const Vec weight = broadcast(task.scan_weight), scale = broadcast(task.scale);
    Largest extrema;
    for (int x = 0; x < task.width; x += kLanes) {
      const int count = smaller(kLanes, task.width - x);
      const Vec squares = expand<Arithmetic, kSigned>(codes + x, weight);
      const Vec v = kFaces ? to_faces(task, squares, broadcast(task.faces.half[2]))
                           : finish<Arithmetic, kSigned>(squares, task.squared, scale);
      if (task.extrema) extrema.take((kFaces ? v : squares) & first_lanes(count));
      store_some(task.out + x, v, count);
    }
    if (task.extrema) extrema.merge(task);
  }
};

// Calls `body` with the SlicePass for this task.
template <class Body>
inline void with_pass(const ImageTask& task, const Body& body) {
  const auto with_code = [&](auto arithmetic, auto is_signed, auto to_faces) {
    using Arithmetic = decltype(arithmetic);
    constexpr bool kSigned = decltype(is_signed)::value, kFaces = decltype(to_faces)::value;
    if (task.wide_codes) {
      body(SlicePass<Arithmetic, kSigned, uint16_t, kFaces>());
    } else {
      body(SlicePass<Arithmetic, kSigned, uint8_t, kFaces>());
    }
  };
  const auto with_sign = [&](auto arithmetic) {
    if (task.to_faces) {
      with_code(arithmetic, std::true_type(), std::true_type());
    } else if (task.is_signed) {
      with_code(arithmetic, std::true_type(), std::false_type());
    } else {
      with_code(arithmetic, std::false_type(), std::false_type());
    }
  };
  if (task.exact) {
    with_sign(ExactSquares());
  } else {
    with_sign(RoundedSquares());
  }
}

inline void do_columns(const ImageTask& task, int z, const Box& box, int tile, char* workspace,
                       uint32_t* turned) {
  SliceWorkspace ws = workspace_at(task, workspace);
  with_pass(task, [&](auto pass) { pass.do_columns(task, z, box, tile, ws, turned); });
}

inline void do_rows(const ImageTask& task, int z, const Box& box, int tile, char* workspace,
                    uint32_t* turned) {
  SliceWorkspace ws = workspace_at(task, workspace);
  with_pass(task, [&](auto pass) {
    if (task.scan_axis == 2) {
      pass.do_line(task);
    } else {
      pass.do_rows(task, z, box, tile, ws, turned);
    }
  });
}

constexpr Passes table(const char* name) {
  return {name,        tabulate_cost, scan_workspace, scan_columns, slice_workspace,
          turned_size, prepare_slice, do_columns,     do_rows,      stream_fence};
}

}  // namespace dtk::cpu::DTK_ISA
