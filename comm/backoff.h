// How a rank waits for others that may need its core: a few microseconds of spinning, long enough
// for a peer that is running, then the rest of the time slice is given away again and again, so
// that ranks may outnumber cores.
#pragma once

#include <sched.h>

namespace llmir::comm {

class Backoff {
 public:
  // Call after a poll that found nothing.
  void Pause() {
    if (spins_ < kSpins) {
      ++spins_;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      sched_yield();
    }
  }
  // Call after a poll that found something.
  void Reset() { spins_ = 0; }

 private:
  static constexpr int kSpins = 200;
  int spins_ = 0;
};

}  // namespace llmir::comm
