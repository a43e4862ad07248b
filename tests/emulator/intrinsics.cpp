// Checks the arithmetic intrinsics against values from the CUDA documentation, or against plain arithmetic.
// Prints a line for each that is wrong.
#include <cstdio>
#include <initializer_list>

#include "emulator.h"

namespace {

#define EXPECT(expression)                                      \
  do {                                                          \
    if (!(expression)) std::printf("wrong: %s\n", #expression); \
  } while (0)

void bits() {
  EXPECT(__clz(0) == 32 && __clz(1) == 31 && __clz(-1) == 0);
  EXPECT(__clzll(0) == 64 && __clzll(1ll << 40) == 23);
  EXPECT(__ffs(0) == 0 && __ffs(8) == 4 && __ffsll(1ll << 40) == 41);
  EXPECT(__popc(0xf0f0u) == 8 && __popcll(~0ull) == 64);
  EXPECT(__brev(1u) == 0x80000000u && __brev(0x00f0u) == 0x0f000000u);
  EXPECT(__byte_perm(0x33221100u, 0x77665544u, 0x7531u) == 0x77553311u);
  EXPECT(__byte_perm(0x80u, 0, 0x8888u) == 0xffffffffu);
  EXPECT(__funnelshift_l(0x80000000u, 1u, 1) == 3u && __funnelshift_r(2u, 1u, 1) == 0x80000001u);
  EXPECT(__funnelshift_lc(5u, 9u, 40) == 5u && __funnelshift_rc(5u, 9u, 40) == 9u);
  EXPECT(__umulhi(0x80000000u, 6u) == 3u && __mulhi(-1, 1) == -1 && __umul64hi(1ull << 63, 6) == 3);
  EXPECT(__float_as_int(1.0f) == 0x3f800000 && __int_as_float(0x40000000) == 2.0f);
}

void floats() {
  EXPECT(__float2int_rd(-1.5f) == -2 && __float2int_ru(-1.5f) == -1 && __float2int_rz(-1.5f) == -1);
  EXPECT(__float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4);
  EXPECT(__float2int_rd(1e20f) == 2147483647 && __float2int_rd(-INFINITY) == -2147483647 - 1);
  EXPECT(__float2int_rn(NAN) == 0 && __float2uint_rd(-3.0f) == 0u &&
         __float2uint_rn(INFINITY) == 0xffffffffu);
  // Directed results enclose the exact one, and are one unit apart unless it is exact.
  for (float a : {1.0f, 3.0f, 0.1f, 16777216.0f, 12345.678f}) {
    for (float b : {1.0f, 0.3f, -0.7f, 3e-9f, 1e9f}) {
      double sum = double(a) + b, product = double(a) * b;
      EXPECT(__fadd_rd(a, b) <= sum && sum <= __fadd_ru(a, b));
      EXPECT(__fmul_rd(a, b) <= product && product <= __fmul_ru(a, b));
      EXPECT(__fadd_rd(a, b) == __fadd_ru(a, b) ||
             std::nextafter(__fadd_rd(a, b), INFINITY) == __fadd_ru(a, b));
      EXPECT(__fmul_rd(a, b) == __fmul_ru(a, b) ||
             std::nextafter(__fmul_rd(a, b), INFINITY) == __fmul_ru(a, b));
    }
    double root = std::sqrt(double(a));
    EXPECT(__fsqrt_rd(a) <= root && root <= __fsqrt_ru(a));
  }
  EXPECT(__fadd_ru(1.0f, 1e-20f) == std::nextafter(1.0f, 2.0f) && __fadd_rd(1.0f, 1e-20f) == 1.0f);
  EXPECT(__fsqrt_rd(9.0f) == 3.0f && __fsqrt_ru(9.0f) == 3.0f);
  EXPECT(min(1, 2u) == 1u && max(-1, 2u) == 0xffffffffu && min(3ll, -4ll) == -4);
  EXPECT(min(NAN, 1.0f) == 1.0f && max(2.0f, 1.0) == 2.0);
}

void packed() {
  EXPECT(__vadd2(0xffff0001u, 0x00010001u) == 0x00000002u);
  EXPECT(__vaddus2(0xffff0001u, 0x00010001u) == 0xffff0002u);
  EXPECT(__vaddss2(0x7fff8000u, 0x0001ffffu) == 0x7fff8000u);
  EXPECT(__vsubus2(0x00010005u, 0x00020003u) == 0x00000002u);
  EXPECT(__vminu2(0xffff0001u, 0x00010002u) == 0x00010001u &&
         __vmins2(0xffff0001u, 0x00010002u) == 0xffff0001u);
  EXPECT(__vmaxu2(0xffff0001u, 0x00010002u) == 0xffff0002u &&
         __vmaxs2(0xffff0001u, 0x00010002u) == 0x00010002u);
  EXPECT(__vabsdiffu2(0x00010005u, 0x00030002u) == 0x00020003u);
  EXPECT(__vcmpltu2(0x00010005u, 0x00030002u) == 0xffff0000u &&
         __vcmpeq2(0x00010005u, 0x00010002u) == 0xffff0000u);
  EXPECT(__vaddus4(0xff010280u, 0x01010180u) == 0xff0203ffu &&
         __vminu4(0x01ff0304u, 0x02010403u) == 0x01010303u);
  EXPECT(__vabs2(0xffff8000u) == 0x00018000u && __vneg2(0x0001ffffu) == 0xffff0001u);
}

void dpx() {
  EXPECT(__viaddmin_s32(3, -5, 7) == -2 && __viaddmin_s32_relu(3, -5, 7) == 0);
  EXPECT(__viaddmin_s32(2147483647, 1, 0) == -2147483647 - 1);
  EXPECT(__viaddmin_u32(0xffffffffu, 2u, 9u) == 1u && __viaddmax_u32(5u, 2u, 9u) == 9u);
  EXPECT(__vimin_s32_relu(-4, 3) == 0 && __vimax3_s32(1, 9, 4) == 9 && __vimin3_s32_relu(-1, 2, 3) == 0);
  EXPECT(__viaddmin_u16x2(0x00010002u, 0x00030004u, 0x00090001u) == 0x00040001u);
  EXPECT(__viaddmax_s16x2_relu(0xfff00002u, 0x00010001u, 0xffff0001u) == 0x00000003u);
  bool first = false;
  EXPECT(__vibmin_s32(2, 2, &first) == 2 && first);
  EXPECT(__vibmax_u32(1u, 5u, &first) == 5u && !first);
}

}  // namespace

int main() {
  bits();
  floats();
  packed();
  dpx();
  return 0;
}
