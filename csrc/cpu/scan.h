// The first axis, in closed form: along a line of voxels the nearest one of the opposite class is the
// last change of class seen from either side, so two scans do, whatever the data.
//
// A voxel's result is one code: its class in the top bit, and in the other bits the distance minus one,
// or all ones when the line has no change of class on either side. Bytes carry lines up to 128 voxels,
// 16-bit codes the rest (to 32,768). With the class inside the code, the later passes never look
// at the mask again, so a mask of any dtype and any strides is read exactly once.
#pragma once
#include "simd.h"

namespace dtk::cpu::DTK_ISA {

template <class Code>
struct CodeBits {
  static constexpr int kShift = 8 * sizeof(Code) - 1;
  static constexpr Code kForeground = Code(1u << kShift);
  static constexpr Code kNone = Code(kForeground - 1);
};

// The code that a scan gives a voxel of class `kind` whose predecessor in the scan has code `previous`.
template <class Code>
inline Code next_code(Code previous, Code kind) {
  using Bits = CodeBits<Code>;
  const Code steps = Code(previous & Bits::kNone);
  const Code longer = Code((steps < Bits::kNone ? steps : Code(Bits::kNone - 1)) + 1);  // "none" stays "none"
  return Code(kind | (((previous ^ kind) & Bits::kForeground) ? Code(0) : longer));
}

// The voxel before the first: background when the image is closed, else of the same class, and either
// way no change of class lies beyond it.
template <class Code>
inline Code code_outside(Code kind, bool closed) {
  return closed ? CodeBits<Code>::kNone : Code(kind | CodeBits<Code>::kNone);
}

// Scans `columns` lines of length n at once, row by row, so that the compiler vectorises the inner loops (64
// byte codes per AVX-512 register). `read_row(p)` returns row p of the mask, non-zero is foreground;
// `codes` gets row p at p * pitch; `behind` is scratch for one row.
template <class Code, class ReadRow>
inline void scan(const ReadRow& read_row, int n, int64_t columns, bool closed, Code* codes, int64_t pitch,
                 Code* __restrict behind) {
  using Bits = CodeBits<Code>;
  for (int p = 0; p < n; p++) {
    const uint8_t* __restrict mask = read_row(p);
    Code* __restrict row = codes + p * pitch;
    if (p == 0) {
      for (int64_t j = 0; j < columns; j++) {
        const Code kind = mask[j] ? Bits::kForeground : Code(0);
        row[j] = next_code(code_outside(kind, closed), kind);
      }
    } else {
      const Code* __restrict before = row - pitch;
      for (int64_t j = 0; j < columns; j++)
        row[j] = next_code(before[j], mask[j] ? Bits::kForeground : Code(0));
    }
  }

  const Code* __restrict last = codes + (n - 1) * pitch;
  for (int64_t j = 0; j < columns; j++) behind[j] = code_outside(Code(last[j] & Bits::kForeground), closed);
  for (int p = n - 1; p >= 0; p--) {
    Code* __restrict row = codes + p * pitch;
    for (int64_t j = 0; j < columns; j++) {
      const Code forward = row[j];
      const Code backward = next_code(behind[j], Code(forward & Bits::kForeground));
      behind[j] = backward;
      row[j] = forward < backward ? forward : backward;  // the class bits are equal
    }
  }
}

// The same for one line whose voxels are neighbours in memory. What the next voxel waits for is an addition
// and a mask, since the changes of class are known beforehand.
template <class Code>
inline void scan_line(const uint8_t* mask, int n, bool closed, Code* codes) {
  using Bits = CodeBits<Code>;
  const auto pass = [&](int first, int step, auto combine) {
    bool before = !closed && mask[first];
    int steps = Bits::kNone;  // "none" stays above every distance
    for (int i = 0, p = first; i < n; i++, p += step) {
      const bool kind = mask[p];
      steps = (steps + 1) & -int(kind == before);
      before = kind;
      combine(p, Code((kind ? Bits::kForeground : 0) | (steps < Bits::kNone ? steps : Bits::kNone)));
    }
  };
  pass(0, 1, [codes](int p, Code code) { codes[p] = code; });
  pass(n - 1, -1, [codes](int p, Code code) { codes[p] = code < codes[p] ? code : codes[p]; });
}

}  // namespace dtk::cpu::DTK_ISA
