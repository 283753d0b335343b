#include "kvpool/transfer_endpoint.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <cstring>

namespace llmir::kvpool {

std::vector<TransferEndpoint::Address> HostAddresses() {
  std::vector<TransferEndpoint::Address> v4;
  std::vector<TransferEndpoint::Address> v6;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return {};
  for (const ifaddrs* each = all; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || (each->ifa_flags & IFF_UP) == 0 ||
        (each->ifa_flags & IFF_LOOPBACK) != 0) {
      continue;
    }
    TransferEndpoint::Address address{};
    if (each->ifa_addr->sa_family == AF_INET) {
      sockaddr_in from{};
      std::memcpy(&from, each->ifa_addr, sizeof from);
      address[10] = address[11] = 0xff;
      std::memcpy(address.data() + 12, &from.sin_addr, 4);
      v4.push_back(address);
    } else if (each->ifa_addr->sa_family == AF_INET6) {
      sockaddr_in6 from{};
      std::memcpy(&from, each->ifa_addr, sizeof from);
      if (IN6_IS_ADDR_LINKLOCAL(&from.sin6_addr)) continue;
      std::memcpy(address.data(), &from.sin6_addr, 16);
      v6.push_back(address);
    }
  }
  freeifaddrs(all);
  v4.insert(v4.end(), v6.begin(), v6.end());
  if (v4.size() > TransferEndpoint::kAddresses) v4.resize(TransferEndpoint::kAddresses);
  return v4;
}

}  // namespace llmir::kvpool
