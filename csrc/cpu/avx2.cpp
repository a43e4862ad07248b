// The passes for AVX2.
#if defined(__x86_64__)
#define DTK_ISA avx2
#include "slice.h"

namespace dtk::cpu {
const Passes kAvx2Passes = DTK_ISA::table("avx2");
}
#endif
