#include "executor/engine/tenants.h"

#include <algorithm>
#include <limits>

#include "kvpool/prefix_tree.h"

namespace llmir::executor {

Tenant* Tenants::Begin(const std::string& name) {
  const auto [entry, is_new] = tenants_.try_emplace(name);
  Tenant& tenant = entry->second;
  if (is_new) tenant.salt = kvpool::kSharedSalt + tenants_.size();
  if (tenant.jobs == 0) {
    double least = std::numeric_limits<double>::infinity();
    for (const auto& [other, active] : tenants_) {
      if (active.jobs > 0) least = std::min(least, active.service);
    }
    if (least < std::numeric_limits<double>::infinity()) {
      tenant.service = std::max(tenant.service, least);
    }
  }
  ++tenant.jobs;
  return &tenant;
}

}  // namespace llmir::executor
