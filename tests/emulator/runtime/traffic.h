// What the kernels' accesses cost in shared and in global memory, in a build of mode "traffic".
//
// There the kernels are compiled with -fsanitize=thread, which puts a call before every access, but not
// linked with TSan: traffic.cpp answers the calls. Without DTK_EMULATOR_TRAFFIC all of this vanishes.
#pragma once

namespace dtk_emulator {

struct Block;
struct Statistics;

namespace traffic {

#ifdef DTK_EMULATOR_TRAFFIC
// A launch begins.
void begin();
// All threads of the block have met, or ended: what its warps have accessed is complete.
void met(const Block& block);
// The launch has ended: adds what it cost to the statistics of its kernel.
void end(Statistics& statistics);
#else
inline void begin() {}
inline void met(const Block&) {}
inline void end(Statistics&) {}
#endif

}  // namespace traffic
}  // namespace dtk_emulator
