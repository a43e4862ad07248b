// The launcher of csrc/cuda/launch.h as C functions, for ctypes: what the tests of the emulated kernels load.
#include <cstring>
#include <exception>

#include "cuda/launch.h"
#include "language.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int kernel_count() { return int(dtk::cuda::kernels().size()); }
EXPORT const char* kernel_name(int i) { return dtk::cuda::kernels()[size_t(i)].name; }
EXPORT size_t kernel_params_size(int i) { return dtk::cuda::kernels()[size_t(i)].params_size; }

// 0, or 1 and the message.
EXPORT int kernel_launch(const char* name, const unsigned* grid, unsigned block, size_t shared,
                         const void* params, size_t params_size, char* message, size_t capacity) {
  try {
    DTK_KERNEL_NAME(name);
    dtk::cuda::launch(dtk::cuda::kernel_index(name), grid, block, shared, params, params_size, 0, 0);
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), capacity - 1);
    return 1;
  }
  return 0;
}
