// The machine: CUDA threads as fibres, and all state of the launch that is running.
//
// One OS thread runs everything. A CUDA thread runs until it has to wait, at a barrier, a collective or a
// spin loop, and then the next one that is ready continues on its own stack. Threads may not observe each
// other between those points, except through races, so this order is as legal as any the device produces.
//
// Nothing in this folder is ever compiled with -fsanitize: sanitizers must see the kernels' accesses and
// nothing else. For the same reason nothing that runs on a fibre calls into libc, whose functions sanitizers
// intercept; -fno-builtin -fno-tree-loop-distribute-patterns keep the compiler from adding such calls.
#pragma once

#include <string>
#include <vector>

#include "../host.h"
#include "../sync.h"
#include "settings.h"
#include "stacks.h"

namespace dtk_emulator {

// What a kernel may use without opting in, static arrays included.
constexpr size_t kDefaultShared = 48 << 10;
constexpr size_t kRedzone = 64;    // bytes after every shared array that nobody may touch
constexpr size_t kMaxArrays = 64;  // static shared arrays per block
constexpr size_t kStaticBytes = kDefaultShared + kMaxArrays * (kRedzone + 128);
constexpr size_t kMaxThreads = 1024;
constexpr size_t kWarps = kMaxThreads / 32;
constexpr size_t kMaxCounters = 256;  // further names are ignored
// As float -2.6e36, as int8 -5, as int32 negative: no plausible distance, whatever the type.
constexpr unsigned char kPoison = 0xFB;
constexpr unsigned char kCanary = 0xC5;
constexpr uint64_t kSpinLimit = 1000000;  // yields in a row without progress anywhere
constexpr unsigned kAtomicsPerTurn = 256;

// Addresses for TSan to hang clocks on; 8 apart, which is the granularity of its tables.
constexpr size_t kTagBarrier = 0;
constexpr size_t kTagWarps = 2 * 8;
constexpr size_t kTagFences = kTagWarps + kMaxThreads * 2 * 8;
constexpr size_t kTagBytes =
    sanitizer::kThread ? (kTagFences + kMaxThreads * 8 + kPage - 1) / kPage * kPage : 0;

enum class State : uint8_t { unstarted, ready, running, at_barrier, at_collective, finished };

struct Block;

struct Thread {  // a CUDA thread
  uint3 index{};
  Block* block = nullptr;
  Stack* stack = nullptr;
  State state = State::unstarted;
  uint8_t lane = 0, warp = 0;
  bool fenced = false;  // TSan: has executed a fence
  uint8_t touched_count = 0;
  int argument = 0, width = 32;
  unsigned mask = 0;
  Location where;
  uint64_t value = 0, result = 0;
  const void* touched[4] = {};  // TSan: the last atomics since the last fence
};

// A collective that some lanes have reached and others have not.
struct Group {
  unsigned mask, arrived;
  Collective kind;
  Location where;
  char* tag;
};

struct Warp {
  unsigned exist, finished;
  unsigned open;    // which of the groups are in use; every one has a waiting lane, so 32 suffice
  unsigned parity;  // by lowest lane of the mask: which of its two tags the next collective uses
  Group groups[32];
};

struct Array {
  const SharedSite* site;
  char* data;
  size_t bytes;
};

// A resident block, or the place for one.
struct Block {
  bool active = false;
  bool used_arena = true;  // TSan: whether the mapping has a history
  uint3 index{};
  unsigned alive = 0, waiting = 0;
  BarrierKind kind = BarrierKind::plain;
  int accumulated = 0;
  unsigned phase = 0;
  Location where;
  Thread* threads = nullptr;
  char *tags = nullptr, *statics = nullptr, *dynamic = nullptr;
  size_t static_used = 0, static_bytes = 0, arrays = 0;
  Array array[kMaxArrays];
  Warp warps[kWarps];
};

// What can go wrong inside a kernel; the key is what tests look for.
struct Diagnosis {
  const char* key;
  cudaError_t error;
  const char* text;
};
inline constexpr Diagnosis kDivergentBarrier = {"divergent-barrier", cudaErrorLaunchFailure,
                                                "threads of one block wait at different __syncthreads"};
inline constexpr Diagnosis kNotInMask = {"lane-not-in-mask", cudaErrorLaunchFailure,
                                         "the calling lane is not in the mask of its own warp collective"};
inline constexpr Diagnosis kNoSuchLane = {
    "mask-names-missing-lane", cudaErrorLaunchFailure,
    "the mask of a warp collective names a lane that the block does not have"};
inline constexpr Diagnosis kReturnedLane = {"mask-names-returned-lane", cudaErrorLaunchFailure,
                                            "the mask of a warp collective names a lane that has returned"};
inline constexpr Diagnosis kMismatch = {"collective-mismatch", cudaErrorLaunchFailure,
                                        "lanes of one mask meet at different warp collectives"};
inline constexpr Diagnosis kBadWidth = {"bad-width", cudaErrorLaunchFailure,
                                        "the width of a shuffle is no power of two up to 32"};
inline constexpr Diagnosis kStaticLimit = {
    "shared-limit", cudaErrorInvalidValue,
    "static and dynamic shared memory together exceed what the kernel may use"};
inline constexpr Diagnosis kTooManyArrays = {"shared-arrays", cudaErrorLaunchFailure,
                                             "too many static shared arrays for the emulator"};
inline constexpr Diagnosis kMisaligned = {"misaligned", cudaErrorMisalignedAddress, "misaligned address"};
inline constexpr Diagnosis kSpin = {
    "spin", cudaErrorLaunchTimeout,
    "threads spin and nothing changes: they wait for a block that is not resident, or for nobody"};
inline constexpr Diagnosis kTrap = {"trap", cudaErrorLaunchFailure, "__trap"};
inline constexpr Diagnosis kOverrun = {"shared-overrun", cudaErrorLaunchFailure,
                                       "write past the end of shared array"};
inline constexpr Diagnosis kDeadlock = {"deadlock", cudaErrorLaunchTimeout, "all threads wait"};

struct Machine {
  // The launch.
  void (*invoke)(void*) = nullptr;
  void* argument = nullptr;
  size_t block_threads = 0, dynamic_bytes = 0, shared_allowed = 0;
  std::vector<Block> blocks;  // resident
  std::vector<Thread> threads;

  // The scheduler: a ring of threads that can continue.
  Thread* current = nullptr;
  std::vector<Thread*> ring;
  size_t head = 0, ready = 0;
  bool random = false;
  uint64_t rng = 1, seed = 0, sequence = 0;
  uint64_t idle = 0;      // yields since something last changed
  unsigned streak = 0;    // atomics since the last switch
  Block* done = nullptr;  // the block that just finished
  Stacks stacks;

  // The stack that called launch().
  Context main{};
  void *main_fake = nullptr, *main_fiber = nullptr;
  const void* main_bottom = nullptr;
  size_t main_bytes = 0;
  bool left_main = false;
  char start_tag = 0, pad[7] = {}, end_tag = 0;

  // What went wrong; fibres only fill it in, launch() turns it into text.
  const Diagnosis* failure = nullptr;
  Location here, there;
  Thread* culprit = nullptr;

  uint64_t switches = 0, barriers = 0, collectives = 0, atomics = 0;
  const char* counter_names[kMaxCounters] = {};
  uint64_t counter_values[kMaxCounters] = {};
  int counters = 1;  // slot 0 means: not assigned
};

// There is one: launches take turns, under machine_mutex().
extern Machine machine;

inline uint64_t random_bits() {  // xorshift64
  machine.rng ^= machine.rng << 13;
  machine.rng ^= machine.rng >> 7;
  machine.rng ^= machine.rng << 17;
  return machine.rng;
}

inline void push(Thread* thread) {
  if (thread->state != State::unstarted) thread->state = State::ready;
  size_t i = machine.head + machine.ready++;
  machine.ring[i < machine.ring.size() ? i : i - machine.ring.size()] = thread;
}

// First come, first served; or any, when the order is random. Order matters for finding bugs: in order,
// thread 0 always runs first, which hides whatever depends on another thread having been faster.
inline Thread* pop() {
  if (!machine.ready) return nullptr;
  if (machine.random) {
    size_t k = machine.head + random_bits() % machine.ready;
    if (k >= machine.ring.size()) k -= machine.ring.size();
    std::swap(machine.ring[k], machine.ring[machine.head]);
  }
  Thread* thread = machine.ring[machine.head];
  if (++machine.head == machine.ring.size()) machine.head = 0;
  --machine.ready;
  return thread;
}

// The current thread cannot continue, or need not; whoever made it wait has noted where it will be found.
void wait();

// Leaves the stack `from` (null: the launching one) and continues `to` (null: the launching stack).
void resume(Stack* from, Thread* to, bool from_ends = false);

// Ends the launch: back to launch(), which turns what is recorded here into text.
[[noreturn]] void fail(const Diagnosis& diagnosis, Location here, Location there = {nullptr, 0});

// Lets all threads that wait at the barrier go on, except `except`, which is running.
void open_barrier(Block& block, Thread* except);

bool same_place(const Location& a, const Location& b);

// Gives `block` its shared memory and its threads, all ready to start; false if there is no memory.
bool start_block(Block& block, uint3 index);
// Bytes of the mapping behind Block::tags.
size_t arena_bytes();
// The shared array of a finished block that was written beyond its end, in words; or an empty string. The
// red zones are looked at when a block ends, since only ASan sees such a write while it happens.
std::string overrun_array(const Block& block);

}  // namespace dtk_emulator
