// The passes of the envelope: lines of an image, a vector of them at a time, through the parabola solver.
#pragma once
#include "parabola_solver.h"
#include "row_passes.h"
#include "transpose.h"

namespace dtk::cpu::DTK_ISA {

inline size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

template <class T>
struct EnvelopePass {
  using V = Lanes<T>;
  using Part = typename V::Part;
  using Landmark = typename ParabolaSolver<T>::Landmark;
  static constexpr int L = V::kCount;
  static constexpr T kNoSite = ParabolaSolver<T>::kNoSite;

  // What a thread works in: rows of lanes before and after the solver, and the positions of an earlier axis.
  struct Workspace {
    T *in, *out, *arg;
    int64_t* earlier;
    Landmark* landmarks;

    Workspace(char* memory, int n) {
      const size_t rows = size_t(n + 16) * 64;
      in = reinterpret_cast<T*>(memory);
      out = reinterpret_cast<T*>(memory + rows);
      arg = reinterpret_cast<T*>(memory + 2 * rows);
      earlier = reinterpret_cast<int64_t*>(memory + 3 * rows);
      landmarks = reinterpret_cast<Landmark*>(memory + 3 * rows + size_t(n) * L * sizeof(int64_t));
    }
    static size_t bytes(int n) {
      return 3 * size_t(n + 16) * 64 + size_t(n) * L * sizeof(int64_t) +
             padded(ParabolaSolver<T>::landmarks_for(n) * sizeof(Landmark));
    }
  };

  static ParabolaSolver<T> solver(const EnvelopeTask& task, int axis, const Workspace& ws) {
    return {{static_cast<const T*>(task.cost[axis]), T(task.weight[axis])}, ws.landmarks};
  }

  // ---- x: up to L rows, the lanes, from the input

  static void do_rows(const EnvelopeTask& task, int64_t first, int count, char* memory) {
    const int n = task.length[2];
    const Workspace ws(memory, n);
    const int64_t height = task.length[1];
    const T* source[L];
    for (int lane = 0; lane < L; lane++) {  // missing rows repeat the last
      const int64_t row = first + (lane < count ? lane : count - 1);
      source[lane] =
          static_cast<const T*>(task.f) + row / height * task.stride[0] + row % height * task.stride[1];
    }
    load_rows(source, task.stride[2], n, ws.in);
    T* arg = task.index ? ws.arg : nullptr;
    solver(task, 2, ws).solve(ws.in, n, ws.out, arg);
    store_rows(ws.out, n, count, static_cast<T*>(task.values) + first * n);
    if (!arg) return;
    for (int lane = 0; lane < count; lane++) {
      int64_t* to = task.index + (first + lane) * n;
      for (int x = 0; x < n; x++) to[x] = int64_t(arg[x * L + lane]);
    }
  }

  // A NaN is no site.
  static V clean(const V& v) {
    V r;
    for (int i = 0; i < kParts; i++) r.part[i] = v.part[i] == v.part[i] ? v.part[i] : Part{} + kNoSite;
    return r;
  }

  static void load_rows(const T* const* source, int64_t step, int n, T* to) {
    int x = 0;
    if constexpr (sizeof(T) == 4) {
      for (; step == 1 && x + L <= n; x += L) {
        Vec block[kLanes];
        for (int i = 0; i < L; i++) block[i] = load(reinterpret_cast<const uint32_t*>(source[i] + x));
        transpose(block);
        for (int i = 0; i < L; i++) {
          DTK_ISA::store(reinterpret_cast<uint32_t*>(to + (x + i) * L), block[i]);
          clean(V::load(to + (x + i) * L)).store(to + (x + i) * L);
        }
      }
    }
    for (; x < n; x++) {
      for (int lane = 0; lane < L; lane++) to[x * L + lane] = source[lane][x * step];
      clean(V::load(to + x * L)).store(to + x * L);
    }
  }

  static void store_rows(const T* from, int n, int count, T* to) {
    int x = 0;
    if constexpr (sizeof(T) == 4) {
      for (; x + L <= n; x += L) {
        Vec block[kLanes];
        for (int i = 0; i < L; i++) block[i] = load(reinterpret_cast<const uint32_t*>(from + (x + i) * L));
        transpose(block);
        for (int i = 0; i < count; i++) DTK_ISA::store(to + int64_t(i) * n + x, block[i]);
      }
    }
    for (; x < n; x++) {
      for (int lane = 0; lane < count; lane++) to[int64_t(lane) * n + x] = from[x * L + lane];
    }
  }

  // ---- y and z: up to L neighbouring columns, in place

  // Column `lane` runs through first + lane + p * step. A step along it moves a position by as much.
  static void do_columns(const EnvelopeTask& task, int axis, int64_t first, int count, char* memory) {
    const int n = task.length[axis];
    const int64_t step = axis == 1 ? task.length[2] : int64_t(task.length[1]) * task.length[2];
    const Workspace ws(memory, n);
    T* values = static_cast<T*>(task.values) + first;
    for (int p = 0; p < n; p++) {
      T* to = ws.in + size_t(p) * L;
      if (count == L) {
        V::load(values + p * step).store(to);
      } else {
        for (int lane = 0; lane < L; lane++) to[lane] = lane < count ? values[p * step + lane] : kNoSite;
      }
    }
    T* arg = task.index ? ws.arg : nullptr;
    solver(task, axis, ws).solve(ws.in, n, ws.out, arg);
    for (int p = 0; p < n; p++) {
      const T* from = ws.out + size_t(p) * L;
      if (count == L) {
        V::load(from).store(values + p * step);
      } else {
        for (int lane = 0; lane < count; lane++) values[p * step + lane] = from[lane];
      }
    }
    if (arg) compose(arg, n, step, count, task.index + first, ws.earlier);
  }

  // The minimiser of p is the one that its best row q has found within the earlier axes, q steps along.
  static void compose(const T* arg, int n, int64_t step, int count, int64_t* index, int64_t* earlier) {
    for (int p = 0; p < n; p++) {
      for (int lane = 0; lane < count; lane++) earlier[p * L + lane] = index[p * step + lane];
    }
    for (int p = 0; p < n; p++) {
      int64_t* to = index + p * step;
      for (int lane = 0; lane < count; lane++) {
        const int q = int(arg[p * L + lane]);
        to[lane] = q < 0 ? -1 : earlier[q * L + lane] + q * step;
      }
    }
  }
};

// Writes cost[-(n + kCostMargin)] .. cost[n + kCostMargin].
template <class T>
inline void tabulate_parabola(double weight, int n, T* cost) {
  const T w = T(weight);
  for (int k = 0; k <= n + kCostMargin; k++) cost[k] = cost[-k] = w * T(int64_t(k) * k);
}

inline void envelope_tabulate(bool wide, double weight, int n, void* cost) {
  if (wide) {
    tabulate_parabola(weight, n, static_cast<double*>(cost));
  } else {
    tabulate_parabola(weight, n, static_cast<float*>(cost));
  }
}

inline size_t envelope_workspace(bool wide, int n) {
  return wide ? EnvelopePass<double>::Workspace::bytes(n) : EnvelopePass<float>::Workspace::bytes(n);
}

inline void envelope_rows(const EnvelopeTask& task, int64_t first, int count, char* memory) {
  if (task.wide) {
    EnvelopePass<double>::do_rows(task, first, count, memory);
  } else {
    EnvelopePass<float>::do_rows(task, first, count, memory);
  }
}

inline void envelope_columns(const EnvelopeTask& task, int axis, int64_t first, int count, char* memory) {
  if (task.wide) {
    EnvelopePass<double>::do_columns(task, axis, first, count, memory);
  } else {
    EnvelopePass<float>::do_columns(task, axis, first, count, memory);
  }
}

constexpr EnvelopePasses envelope_table() {
  return {envelope_tabulate, envelope_workspace, envelope_rows, envelope_columns};
}

}  // namespace dtk::cpu::DTK_ISA
