// 64 bytes of floats or doubles, whatever the machine, for code that is templated on the type. simd.h holds
// the integer lanes and says what a Part is.
#pragma once
#include "simd.h"

namespace dtk::cpu::DTK_ISA {

constexpr int kPartBytes = 4 * kPartLanes;

template <class T>
struct alignas(64) Lanes {
  static constexpr int kCount = 64 / int(sizeof(T));
  typedef T Part __attribute__((vector_size(kPartBytes)));
  typedef T UnalignedPart __attribute__((vector_size(kPartBytes), aligned(sizeof(T)), may_alias));
  static constexpr int kPartCount = kPartBytes / int(sizeof(T));  // lanes of a part
  Part part[kParts];

  static Lanes load(const T* p) {
    Lanes r;
    for (int i = 0; i < kParts; i++) r.part[i] = *reinterpret_cast<const UnalignedPart*>(p + i * kPartCount);
    return r;
  }
  void store(T* p) const {
    for (int i = 0; i < kParts; i++) *reinterpret_cast<UnalignedPart*>(p + i * kPartCount) = part[i];
  }
  static Lanes broadcast(T x) {
    Lanes r;
    for (int i = 0; i < kParts; i++) r.part[i] = Part{} + x;
    return r;
  }
  T lane(int i) const { return part[i / kPartCount][i % kPartCount]; }

  friend Lanes operator+(const Lanes& a, const Lanes& b) {
    Lanes r;
    for (int i = 0; i < kParts; i++) r.part[i] = a.part[i] + b.part[i];
    return r;
  }
  friend Lanes operator+(const Lanes& a, T x) {
    Lanes r;
    for (int i = 0; i < kParts; i++) r.part[i] = a.part[i] + x;
    return r;
  }
  friend Lanes operator-(const Lanes& a, const Lanes& b) {
    Lanes r;
    for (int i = 0; i < kParts; i++) r.part[i] = a.part[i] - b.part[i];
    return r;
  }

  // In each lane: where `candidate` is smaller, take it.
  void lower(const Lanes& candidate) {
    for (int i = 0; i < kParts; i++) part[i] = candidate.part[i] < part[i] ? candidate.part[i] : part[i];
  }
  // The same, with the number of the candidate.
  void lower(const Lanes& candidate, Lanes& at, T number) {
    const Part n = Part{} + number;
    for (int i = 0; i < kParts; i++) {
      at.part[i] = candidate.part[i] < part[i] ? n : at.part[i];
      part[i] = candidate.part[i] < part[i] ? candidate.part[i] : part[i];
    }
  }
  void raise(const Lanes& candidate) {
    for (int i = 0; i < kParts; i++) part[i] = candidate.part[i] > part[i] ? candidate.part[i] : part[i];
  }
  bool any_up_to(const Lanes& limit) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
      return _mm512_cmp_ps_mask((__m512)part[0], (__m512)limit.part[0], _CMP_LE_OQ) != 0;
    } else {
      return _mm512_cmp_pd_mask((__m512d)part[0], (__m512d)limit.part[0], _CMP_LE_OQ) != 0;
    }
#else
    auto found = part[0] <= limit.part[0];
    for (int i = 1; i < kParts; i++) found |= part[i] <= limit.part[i];
#if defined(__AVX2__)
    return _mm256_movemask_ps((__m256)found) != 0;
#else
    uint64_t words[2];
    memcpy(words, &found, 16);
    return (words[0] | words[1]) != 0;
#endif
#endif
  }
  T largest() const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
      return _mm512_reduce_max_ps((__m512)part[0]);
    } else {
      return _mm512_reduce_max_pd((__m512d)part[0]);
    }
#else
    Part top = part[0];
    for (int i = 1; i < kParts; i++) top = part[i] > top ? part[i] : top;
    T best = top[0];
    for (int i = 1; i < kPartCount; i++) best = top[i] > best ? top[i] : best;
    return best;
#endif
  }
};

}  // namespace dtk::cpu::DTK_ISA
