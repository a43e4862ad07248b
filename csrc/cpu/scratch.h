// Memory that a thread keeps from call to call.
#pragma once
#include <cstddef>

namespace dtk::cpu {

// A block of memory that grows on demand, 64-byte aligned, its contents lost when it grows. Fresh pages cost
// more than a transform (1.7-1.9 ns per voxel), so the block survives the call unless it is larger than
// kKept.
class Scratch {
 public:
  static constexpr size_t kKept = size_t(64) << 20;

  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { release(); }

  // Throws std::bad_alloc.
  char* reserve(size_t bytes);
  void trim() {
    if (size_ > kKept) release();
  }

 private:
  void release();

  char* data_ = nullptr;
  size_t size_ = 0;
};

// Borrows a thread's scratch for a scope, and trims it at the end, exceptions included.
class ScratchLease {
 public:
  ScratchLease(Scratch& scratch, size_t bytes) : scratch_(scratch), data_(scratch.reserve(bytes)) {}
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  ~ScratchLease() { scratch_.trim(); }
  char* data() const { return data_; }

 private:
  Scratch& scratch_;
  char* data_;
};

// Asks for huge pages in [begin, begin + bytes) if that is large enough to pay; does not touch the memory.
void advise_huge_pages(void* begin, size_t bytes);

}  // namespace dtk::cpu
