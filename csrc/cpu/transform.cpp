#include "transform.h"

#include <cstdlib>
#include <cstring>

#include "batch.h"

namespace dtk::cpu {

namespace {

// DTK_CPU_ISA forbids what is above it: avx512 > avx2 > portable.
const Passes& choose_passes() {
#if defined(__x86_64__)
  const char* wanted = std::getenv("DTK_CPU_ISA");
  const auto allowed = [wanted](const char* name) {
    return !wanted || !*wanted || !std::strcmp(wanted, name);
  };
  const bool has_avx2 = __builtin_cpu_supports("avx2");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has_avx512 && allowed("avx512")) return kAvx512Passes;
  if (has_avx2 && (allowed("avx2") || allowed("avx512"))) return kAvx2Passes;
#endif
  return kBaselinePasses;
}

}  // namespace

const Passes& passes() {
  static const Passes& chosen = choose_passes();
  return chosen;
}

void transform(const Transform& t) {
  for (const int64_t length : t.image.shape) {
    if (length == 0) return;
  }
  Batch(t).run();
}

const char* instruction_set() { return passes().name; }

}  // namespace dtk::cpu
