// Errors as the runtime API keeps them: the last one of each OS thread, with the emulator's own words.
#pragma once

#include <string>

#include "../host.h"

namespace dtk_emulator {

// Records the error for cudaGetLastError and its text for cudaGetErrorString, and returns it.
cudaError_t report(cudaError_t error, const std::string& text);

}  // namespace dtk_emulator
