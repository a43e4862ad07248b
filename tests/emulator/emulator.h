// The CUDA language on a CPU: what a kernel or a launcher sees when csrc/dtk/config.h is compiled with
// -DDTK_EMULATOR. Only declarations and one-line intrinsics live here; the machine is runtime/.
//
// These headers are compiled together with the kernels, hence under the same sanitizer. Anything that must
// not be watched (the scheduler, collectives, counters) is therefore a call into the runtime.
#pragma once

#include "host.h"        // the slice of the runtime API that launchers use
#include "intrinsics.h"  // bits, floats, packed integers, minimum and maximum
#include "language.h"    // qualifiers, vector types, built-in variables, shared memory, counters
#include "sync.h"        // barriers, warp collectives, atomics, fences
