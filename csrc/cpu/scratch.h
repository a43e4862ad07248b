// Memory that a thread keeps from call to call.
#pragma once
#include <cstddef>
#include <new>
#include <string>

namespace dtk::cpu {

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(size_t bytes)
      : what_("expected " + std::to_string(bytes) + " bytes of working memory, got none") {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

// A block of memory that grows on demand, 64-byte aligned, its contents lost when it grows. The kernel's work
// on fresh pages can cost as much as a transform (bench/results/transform.json: results given and allocated),
// so the block survives the call unless it is larger than kKept.
class Scratch {
 public:
  static constexpr size_t kKept = size_t(64) << 20;

  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { release(); }

 private:
  friend class ScratchLease;
  char* reserve(size_t bytes);
  void release();

  char* data_ = nullptr;
  size_t size_ = 0;
  bool lent_ = false;
};

// Borrows a thread's scratch for a scope; a block above kKept is freed at its end, exceptions included. While
// it is lent, a call within the call (interrupt.h) gets a block of its own. Throws OutOfMemory.
class ScratchLease {
 public:
  ScratchLease(Scratch& scratch, size_t bytes)
      : scratch_(scratch.lent_ ? own_ : scratch), data_(scratch_.reserve(bytes)) {
    scratch_.lent_ = true;
  }
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  ~ScratchLease() {
    scratch_.lent_ = false;
    if (scratch_.size_ > Scratch::kKept) scratch_.release();
  }
  char* data() const { return data_; }

 private:
  Scratch own_;
  Scratch& scratch_;
  char* data_;
};

// Asks for huge pages in [begin, begin + bytes) if that is large enough to pay; does not touch the memory.
void advise_huge_pages(void* begin, size_t bytes);

}  // namespace dtk::cpu
