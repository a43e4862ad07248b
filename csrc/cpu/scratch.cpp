#include "scratch.h"

#include <cstdint>
#include <cstdlib>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dtk::cpu {

namespace {
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kPage = 4096;
}  // namespace

char* Scratch::reserve(size_t bytes) {
  if (bytes <= size_) return data_;
  release();
  const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* block = nullptr;
  if (rounded < bytes || posix_memalign(&block, alignment, rounded) != 0) throw OutOfMemory(bytes);
  data_ = static_cast<char*>(block);
  size_ = rounded;
  advise_huge_pages(data_, size_);
  return data_;
}

void Scratch::release() {
  free(data_);
  data_ = nullptr;
  size_ = 0;
}

void advise_huge_pages(void* begin, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < 2 * kHugePage) return;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kPage - 1) / kPage * kPage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: failure changes nothing
#else
  (void)begin;
  (void)bytes;
#endif
}

}  // namespace dtk::cpu
