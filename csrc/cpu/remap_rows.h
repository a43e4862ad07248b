// A formula on rows of a distance map, and the contour of a mask, 64 voxels at a time.
#pragma once
#include "row_passes.h"
#include "runs.h"

namespace dtk::cpu::DTK_ISA {

// --- The mask as bits ---

inline const uint64_t* remap_bits(const MaskBits& mask, int64_t row) {
  return mask.words + row * words_for(mask.width);
}

// `buffer` holds a row.
inline void remap_read_rows(const MaskBits& mask, int64_t begin, int64_t end, uint8_t* buffer) {
  const int64_t* stride = mask.image.stride + 2;
  for (int64_t row = begin; row < end; row++) {
    const int64_t z = row / mask.height, y = row % mask.height;
    pack_row(mask.image, mask.offset + z * stride[0] + y * stride[1], stride[2], mask.width, buffer,
             mask.words + row * words_for(mask.width), mask.class_index);
  }
}

// Foreground voxels of a row that have a neighbour in the background, where neighbours differ in at most
// `connectivity` coordinates: those that are not left by the erosion, which is a conjunction over rows. The
// step to a row takes up to two of the coordinates; what is left decides about the steps along x. Beyond an
// open image is whatever the voxel itself is.
inline void contour_bits(const MaskBits& mask, int64_t row, int connectivity, uint64_t* contour) {
  const int64_t words = words_for(mask.width), z = row / mask.height, y = row % mask.height;
  const uint64_t* own = remap_bits(mask, row);
  uint64_t any = 0;
  for (int64_t w = 0; w < words; w++) any |= contour[w] = own[w];  // what erosion leaves
  if (!any) return;
  for (int64_t dz = -1; dz <= 1; dz++) {
    for (int64_t dy = -1; dy <= 1; dy++) {
      const int taken = (dz != 0) + (dy != 0);
      if (taken > connectivity) continue;
      const bool inside = z + dz >= 0 && z + dz < mask.depth && y + dy >= 0 && y + dy < mask.height;
      if (!inside) {
        const bool beyond_z = z + dz < 0 || z + dz >= mask.depth;
        if (mask.closed[beyond_z ? 0 : 1]) memset(contour, 0, size_t(words) * 8);
        continue;
      }
      const uint64_t* other = remap_bits(mask, row + dz * mask.height + dy);
      if (taken == connectivity) {
        for (int64_t w = 0; w < words; w++) contour[w] &= other[w];
        continue;
      }
      const int last = int((mask.width - 1) % 64);
      uint64_t carry = mask.closed[2] ? 0 : other[0] & 1;
      for (int64_t w = 0; w < words; w++) {
        const uint64_t x = other[w];
        uint64_t next = w + 1 < words ? other[w + 1] << 63 : 0;
        if (w + 1 == words && !mask.closed[2]) next |= (x >> last & 1) << last;
        contour[w] &= x & (x << 1 | carry) & (x >> 1 | next);
        carry = x >> 63;
      }
    }
  }
  for (int64_t w = 0; w < words; w++) contour[w] = own[w] & ~contour[w];
}

// Zeros on the contour, ones elsewhere, as bytes.
inline void remap_write_contour(const MaskBits& mask, int connectivity, int64_t begin, int64_t end,
                                uint64_t* bits, uint8_t* out) {
  for (int64_t row = begin; row < end; row++) {
    contour_bits(mask, row, connectivity, bits);
    uint8_t* to = out + row * mask.width;
    memset(to, 1, size_t(mask.width));
    for_each_run(bits, int(mask.width),
                 [&](int from, int until) { memset(to + from, 0, size_t(until - from)); });
  }
}

// --- The formula ---

struct VecLine {
  Vec slope, offset, divisor, add;
  explicit VecLine(const FormulaLine& line)
      : slope(broadcast(line.slope)),
        offset(broadcast(line.offset)),
        divisor(broadcast(line.divisor)),
        add(broadcast(line.add)) {}
};

// exp(x) for x <= 0: 2^n exp(r), n the nearest integer to x / ln 2, and |r| at most ln 2 / 2, where the first
// term that the series leaves out is below 2^-27. ln 2 is taken in two parts, the first of so few bits that
// n times it is exact.
inline Vec exp_negative(const Vec& x) {
  const auto number = [](float v) { return broadcast(v); };
  const Vec in = max_float(x, number(-87.0f));  // 2^-125.5: still a normal number
  const Vec n = to_int(add_float(multiply_float(in, number(1.44269504f)), number(-0.5f)));
  const Vec f = to_float(n);
  Vec r = add_float(in, multiply_float(f, number(-0.693359375f)));
  r = add_float(r, multiply_float(f, number(2.12194440e-4f)));
  Vec e = number(1.0f / 5040.0f);
  for (const float c : {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f}) {
    e = add_float(multiply_float(e, r), number(c));
  }
  return multiply_float(e, shift_left(n + broadcast(127u), 23));
}

// What the formula gives for sixteen voxels. kDivide: a divisor is not 1.
template <bool kDivide, bool kGaussian>
class Values {
 public:
  explicit Values(const RemapTask& task)
      : low_(broadcast(task.formula.low)),
        high_(broadcast(task.formula.high)),
        rate_(broadcast(task.formula.rate)),
        infinite_(broadcast(0x7f800000u)) {}

  Vec operator()(const Vec& d, const Vec& slope, const Vec& offset, const Vec& divisor, const Vec& add,
                 const Vec& missing) const {
    Vec value;
    if (kGaussian) {
      value =
          add_float(multiply_float(slope, exp_negative(multiply_float(rate_, multiply_float(d, d)))), add);
    } else {
      value = add_float(multiply_float(slope, d), offset);
      if (kDivide) value = divide_float(value, divisor);
      value = add_float(value, add);
    }
    value = min_float(max_float(value, low_), high_);
    return select(equal(d, infinite_), missing, value);
  }

 private:
  const Vec low_, high_, rate_, infinite_;
};

// Calls f(x, values, count) for sixteen voxels of [begin, end) at a time and stores what it returns.
template <class F>
inline void replace(float* map, int64_t begin, int64_t end, const F& f) {
  int64_t x = begin;
  for (; x + kLanes <= end; x += kLanes) {
    store(map + x, f(x, load(reinterpret_cast<const uint32_t*>(map + x))));
  }
  if (x < end) {
    alignas(64) uint32_t rest[kLanes] = {};
    memcpy(rest, map + x, size_t(end - x) * 4);
    store_some(map + x, f(x, load(rest)), int(end - x));
  }
}

inline uint32_t sixteen(const uint64_t* bits, int64_t x) {
  return uint32_t(bits[x / 64] >> (x % 64)) & 0xffffu;
}

// A row in which any voxel may be of either side.
template <int kInside, bool kDivide, bool kGaussian>
inline void remap_mixed(const RemapTask& task, const uint64_t* mask, const uint64_t* contour, float* map) {
  const VecLine in(task.lines.inside), out(task.lines.outside);
  const Values<kDivide, kGaussian> values(task);
  const Vec empty = broadcast(task.lines.empty), full = broadcast(task.lines.full);
  const Vec edge = broadcast(task.formula.edge), magnitude = broadcast(~kSignBit), zero = broadcast(0u);
  replace(map, 0, task.mask.width, [&](int64_t x, const Vec& v) {
    const Mask outside = kInside == kNegative   ? less(v, broadcast(kSignBit))
                         : kInside == kPositive ? equal(v, zero)
                                                : lanes_of(~sixteen(mask, x));
    Vec value = values(v & magnitude, select(outside, out.slope, in.slope),
                       select(outside, out.offset, in.offset), select(outside, out.divisor, in.divisor),
                       select(outside, out.add, in.add), select(outside, empty, full));
    if (contour) value = select(lanes_of(sixteen(contour, x)), edge, value);
    return value;
  });
}

// Voxels [begin, end) of a row, all of one side.
inline void remap_span(const RemapTask& task, const FormulaLine& line, float missing, int64_t begin,
                       int64_t end, float* map) {
  if (begin == end) return;
  const VecLine own(line);
  const Values<true, false> values(task);
  const Vec none = broadcast(missing), magnitude = broadcast(~kSignBit);
  replace(map, begin, end, [&](int64_t, const Vec& v) {
    return values(v & magnitude, own.slope, own.offset, own.divisor, own.add, none);
  });
}

inline void remap_take_maxima(const RemapTask& task, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const float* map = task.map + row * task.mask.width;
    const int32_t* labels = task.labels + row * task.mask.width;
    for_each_run(remap_bits(task.mask, row), int(task.mask.width), [&](int from, int to) {
      float top = 0;
      for (int x = from; x < to; x++) {
        float d = __builtin_fabsf(map[x]);
        d = d > __FLT_MAX__ ? 0.0f : d;
        top = d > top ? d : top;
      }
      raise_float(task.maxima + labels[from] - 1, top);
    });
  }
}

inline void remap_components(const RemapTask& task, int64_t row, float* map) {
  const int32_t* labels = task.labels + row * task.mask.width;
  int done = 0;
  const auto outside = [&](int to) { remap_span(task, task.lines.outside, task.lines.empty, done, to, map); };
  for_each_run(remap_bits(task.mask, row), int(task.mask.width), [&](int from, int to) {
    outside(from);
    remap_span(task, task.components[labels[from] - 1], task.lines.full, from, to, map);
    done = to;
  });
  outside(int(task.mask.width));
}

// A number as a type, so that a generic lambda can use it in a template argument.
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

inline void remap_row(const RemapTask& task, int64_t row, const uint64_t* contour, float* map) {
  const bool divide = task.lines.inside.divisor != 1.0f || task.lines.outside.divisor != 1.0f;
  const uint64_t* mask = task.mask.words ? remap_bits(task.mask, row) : nullptr;
  const auto with_inside = [&](auto inside) {
    constexpr int kInside = decltype(inside)::value;
    if (task.formula.rate != 0) return remap_mixed<kInside, false, true>(task, mask, contour, map);
    if (divide) return remap_mixed<kInside, true, false>(task, mask, contour, map);
    remap_mixed<kInside, false, false>(task, mask, contour, map);
  };
  if (task.inside == kNegative) return with_inside(Constant<kNegative>());
  if (task.inside == kPositive) return with_inside(Constant<kPositive>());
  with_inside(Constant<kByMask>());
}

// `contour` holds the bits of a row.
inline void remap_write_rows(const RemapTask& task, int64_t begin, int64_t end, uint64_t* contour) {
  for (int64_t row = begin; row < end; row++) {
    float* map = task.map + row * task.mask.width;
    if (task.inner_zero) contour_bits(task.mask, row, 1, contour);
    if (!task.labels) {
      remap_row(task, row, task.inner_zero ? contour : nullptr, map);
      continue;
    }
    remap_components(task, row, map);
    if (task.inner_zero) {
      for_each_run(contour, int(task.mask.width), [&](int from, int to) {
        for (int x = from; x < to; x++) map[x] = task.formula.edge;
      });
    }
  }
}

constexpr RemapPasses remap_table() {
  return {remap_read_rows, remap_write_contour, remap_take_maxima, remap_write_rows};
}

}  // namespace dtk::cpu::DTK_ISA
