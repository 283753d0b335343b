// Who the engine works for, and how much each has got: the fair share. A tenant's service is the
// tokens computed for it; the one with least service that waits comes next. One that comes back
// after a pause starts level with the others, so that rest can't be saved up.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace llmir::executor {

struct Tenant {
  uint64_t salt;       // of what it caches (kvpool/prefix_tree.h)
  double service = 0;  // tokens
  int32_t jobs = 0;    // that have not ended
};

class Tenants {
 public:
  // The tenant of this name with one more job. The pointer stays valid.
  Tenant* Begin(const std::string& name);
  void End(Tenant* tenant) { --tenant->jobs; }

 private:
  std::map<std::string, Tenant> tenants_;
};

}  // namespace llmir::executor
