// Giving up a long run at the caller's wish: Ctrl-C.
#pragma once

namespace dtk::cpu {

// Thrown by checkpoint() where the answer was yes.
struct Interrupted {};

// For the scope of a call, and on the calling thread alone: whom to ask whether to give up. What it asks may
// call back into these kernels, as a Python signal handler may; scopes nest.
class Watch {
 public:
  using Question = bool (*)();  // true: give up

  explicit Watch(Question question);
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch();

 private:
  const Question outer_;
};

// Stands between two pieces of work; asks at most twenty times a second.
void checkpoint();

}  // namespace dtk::cpu
