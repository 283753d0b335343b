// The median of the latest values of something that is measured again and again. No allocation.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

namespace llmir::executor {

class RecentMedian {
 public:
  void Add(double value) { values_[count_++ % kKept] = value; }
  bool empty() const { return count_ == 0; }
  double value() const {
    if (empty()) return 0;
    std::array<double, kKept> sorted = values_;
    const auto end = sorted.begin() + static_cast<std::ptrdiff_t>(std::min(count_, kKept));
    const auto middle = sorted.begin() + (end - sorted.begin()) / 2;
    std::nth_element(sorted.begin(), middle, end);
    return *middle;
  }

 private:
  static constexpr size_t kKept = 31;
  std::array<double, kKept> values_{};
  size_t count_ = 0;
};

}  // namespace llmir::executor
