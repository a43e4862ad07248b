// Accesses whose cost is known: what tests/test_emulator.py asks of the mode "traffic". One warp.
#include "dtk/config.h"

namespace patterns {

struct Parameters {
  float* global;
  int stride;  // of floats, from lane to lane
  int shift;   // the first lane's
  int times;   // lane i does it so often, and i % 4 times more
};

__global__ void __launch_bounds__(32) shared_words(Parameters p) {
  DTK_SHARED(float, words, 32 * 37);
  words[threadIdx.x] = 0.0f;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < p.times + int(threadIdx.x) % 4; ++i)
    sum += words[int(threadIdx.x) * p.stride + p.shift + 32 * i];
  p.global[threadIdx.x] = sum;
}

__global__ void __launch_bounds__(32) shared_pairs(Parameters p) {
  DTK_SHARED(float2, pairs, 32);
  pairs[threadIdx.x] = float2{1.0f, 2.0f};
  __syncthreads();
  p.global[threadIdx.x] = pairs[31 - threadIdx.x].y;
}

__global__ void __launch_bounds__(32) global_words(Parameters p) {
  float* to = p.global + int(threadIdx.x) * p.stride + p.shift;
  *to = *to + 1.0f;
}

}  // namespace patterns

#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT const char* run(int kernel, float* global, int stride, int shift, int times) {
  void (*const kernels[])(patterns::Parameters) = {patterns::shared_words, patterns::shared_pairs,
                                                   patterns::global_words};
  cudaLaunchConfig_t config{};
  config.gridDim = 1;
  config.blockDim = 32;
  const cudaError_t error =
      cudaLaunchKernelEx(&config, kernels[kernel], patterns::Parameters{global, stride, shift, times});
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
