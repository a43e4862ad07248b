// The passes for what every CPU of the architecture has: NEON on 64-bit Arm, SSE2 on x86-64.
#define DTK_ISA baseline
#include "slice.h"

namespace dtk::cpu {
#if defined(__ARM_NEON)
const Passes kBaselinePasses = DTK_ISA::table("neon");
#else
const Passes kBaselinePasses = DTK_ISA::table("portable");
#endif
}  // namespace dtk::cpu
