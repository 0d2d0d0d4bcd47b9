#include "kernels/cuda/sort.h"

#include <algorithm>

#include "tests/kernels/device_kernels.h"

using namespace weft;
using kernels::cuda::kIdShift;
using kernels::cuda::kNoKey;
using weft::test::Array;
using weft::test::Random;

TEST_CASE("keys are sorted by id, those of one id in their order, no key last", "[sort]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  for (const std::int64_t num_ids : {1, 2, 3, 4, 7, 8, 255, 256, 257, 50000})
    for (const std::int64_t count : {1, 2, 100, 1500}) {
      Random random(static_cast<std::uint64_t>(num_ids * count));
      std::vector<std::uint64_t> keys, sorted(static_cast<std::size_t>(count));
      for (std::int64_t i = 0; i < count; ++i) {
        const auto id = static_cast<std::uint64_t>(random.below(2) == 0 ? num_ids - 1 : random.below(num_ids));
        keys.push_back(random.below(5) == 0 ? kNoKey : id << kIdShift | static_cast<std::uint64_t>(i));
      }
      auto want = keys;
      std::stable_sort(want.begin(), want.end(),
                       [](std::uint64_t a, std::uint64_t b) { return a >> kIdShift < b >> kIdShift; });
      test::kernel_device(DeviceKind::kCuda)
          .run(kernels::cuda::sort_by_id, Array<std::uint64_t>{sorted.data(), count},
               Array<const std::uint64_t>{keys.data(), count}, count, num_ids);
      INFO(count << " keys of " << num_ids << " ids");
      CHECK(sorted == want);
    }
}
