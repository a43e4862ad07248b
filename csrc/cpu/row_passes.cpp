#include "row_passes.h"

#include <cstring>

#include "transform.h"

namespace dtk::cpu {

namespace {
const RowPasses& choose() {
#if defined(__x86_64__)
  if (!std::strcmp(instruction_set(), "avx512")) return kAvx512RowPasses;
  if (!std::strcmp(instruction_set(), "avx2")) return kAvx2RowPasses;
#endif
  return kBaselineRowPasses;
}
}  // namespace

const RowPasses& row_passes() {
  static const RowPasses& chosen = choose();
  return chosen;
}

}  // namespace dtk::cpu
