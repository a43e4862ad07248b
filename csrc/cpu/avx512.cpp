// The passes for AVX-512 (F, BW, VL, DQ).
#if defined(__x86_64__)
#define DTK_ISA avx512
#include "slice.h"

namespace dtk::cpu {
const Passes kAvx512Passes = DTK_ISA::table("avx512");
}
#endif
