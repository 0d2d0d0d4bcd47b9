// The entries of a routing table counted, placed and moved, against plain loops. count_rows and place_rows take structs
// with pointers, so these cases bring their memory to the device themselves.
#include "kernels/dispatch.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "core/host_access.h"
#include "tests/kernels/device_kernels.h"

using namespace weft;
using namespace weft::kernels;
using weft::test::error_of;
using weft::test::Grid;
using weft::test::inline_stream;
using weft::test::Random;
using weft::test::says;

namespace {

/// An array on a device, with a margin behind it that nobody may write.
template <class T>
class OnDevice {
 public:
  OnDevice(Device device, std::vector<T> values) : count_(values.size()), access_(device) {
    values.insert(values.end(), kMargin, T(-77));
    memory_ = Memory(device, static_cast<std::int64_t>(values.size() * sizeof(T)));
    access_.fill(data(), static_cast<std::int64_t>(values.size()),
                 [&](T* out) { std::copy(values.begin(), values.end(), out); });
  }
  [[nodiscard]] T* data() const { return memory_.as<T>(); }
  [[nodiscard]] std::vector<T> values() {
    const T* host = access_.read(data(), static_cast<std::int64_t>(count_ + kMargin));
    CHECK(std::all_of(host + count_, host + count_ + kMargin, [](T v) { return v == T(-77); }));
    return {host, host + count_};
  }

 private:
  static constexpr std::size_t kMargin = 9;
  std::size_t count_;
  HostAccess access_;
  Memory memory_;
};

/// A table whose entries name an expert, or none.
std::vector<std::int32_t> table_of(Random& random, std::int64_t entries, std::int64_t experts) {
  return random.integers(entries, -1, experts);
}

}  // namespace

TEMPLATE_TEST_CASE("entries of a table are counted by piece and expert", "[dispatch]", WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Random random(seed);
    const std::int64_t rows = random.pick({0, 1, 7, 300}), k = random.pick({1, 2, 3}), local = random.pick({1, 2, 5});
    const std::int64_t ranks = random.pick({1, 3}), experts = ranks * local;
    const std::vector<std::int64_t> cuts =
        seed % 2 == 0 ? std::vector<std::int64_t>{0, rows} : std::vector<std::int64_t>{0, rows / 3, rows / 2, rows};
    INFO("seed " << seed << ": [" << rows << ", " << k << "], " << ranks << " x " << local << " experts");
    const auto pieces = static_cast<std::int64_t>(cuts.size()) - 1;
    const std::vector<std::int32_t> table = table_of(random, rows * k, experts);
    std::vector<std::int64_t> want(static_cast<std::size_t>(experts * pieces), 0);
    for (std::int64_t p = 0; p < pieces; ++p)
      for (std::int64_t i = cuts[static_cast<std::size_t>(p)] * k; i < cuts[static_cast<std::size_t>(p) + 1] * k; ++i)
        if (const std::int32_t e = table[static_cast<std::size_t>(i)]; e >= 0)
          ++want[static_cast<std::size_t>((e / local * pieces + p) * local + e % local)];
    const Device at = device.stream().device();
    OnDevice<std::int32_t> there(at, table);
    OnDevice<std::int64_t> counts(at, std::vector<std::int64_t>(want.size(), -5));
    device.stream().enqueue([&] {
      count_rows(device.stream(), {counts.data(), experts, local}, Matrix<const std::int32_t>(there.data(), rows, k),
                 cuts);
    });
    device.stream().synchronize();
    CHECK(counts.values() == want);
  }
}

TEMPLATE_TEST_CASE("entries of a table are placed by (expert, row, choice)", "[dispatch]", WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const bool all = seed % 4 == 3, has_source = seed % 3 == 1;
    const std::int64_t rows = random.pick({0, 1, 9, 400}), experts = random.pick({1, 3, 6});
    const std::int64_t k = all ? experts : random.pick({1, 2, 3}), first = random.pick({0, 17});
    INFO("seed " << seed << ": [" << rows << ", " << k << "], " << experts << " experts");
    std::vector<std::int32_t> table = table_of(random, rows * k, experts);
    for (std::size_t i = 0; all && i < table.size(); ++i) table[i] = static_cast<std::int32_t>(i) % int(k);
    const std::vector<std::int32_t> source = random.integers(rows * k, 0, 1000);
    std::vector<std::tuple<std::int32_t, std::size_t>> sorted;
    for (std::size_t i = 0; i < table.size(); ++i)
      if (table[i] >= 0) sorted.emplace_back(table[i], i);
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::int32_t> row(table.size(), -1), token;
    for (std::size_t place = 0; place < sorted.size(); ++place) {
      const std::size_t i = std::get<1>(sorted[place]);
      row[i] = static_cast<std::int32_t>(place);
      token.push_back(has_source ? source[i] : static_cast<std::int32_t>(first + static_cast<std::int64_t>(i) / k));
    }
    const Device at = device.stream().device();
    OnDevice<std::int32_t> entries(at, table), sources(at, source), out_row(at, std::vector(table.size(), -9)),
        out_token(at, std::vector(token.size(), -9));
    const auto matrix = [&](const OnDevice<std::int32_t>& m, bool there) {
      return there ? Matrix<const std::int32_t>(m.data(), rows, k) : Matrix<const std::int32_t>();
    };
    device.stream().enqueue([&] {
      place_rows(device.stream(), {{out_row.data(), rows, k}, out_token.data(), first}, matrix(entries, !all),
                 matrix(sources, has_source), experts);
    });
    device.stream().synchronize();
    CHECK(out_row.values() == row);
    CHECK(out_token.values() == token);
  }
}

TEMPLATE_TEST_CASE("blocks of rows are moved, and nothing else", "[dispatch]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (const std::int64_t pad : {0, 2, 8})  // with 8 and 72 columns rows begin at multiples of 16 bytes
    for (const std::int64_t cols : {1, 5, 70, 72}) {
      Random random(static_cast<std::uint64_t>(cols + pad));
      constexpr std::int64_t kBlocks = 150;  // more than one launch takes
      std::vector<RowBlock> blocks;
      std::int64_t from = 0;
      for (std::int64_t i = 0; i < kBlocks; ++i) {
        const std::int64_t count = random.pick({0, 1, 3, 9});
        blocks.push_back({0, from, count});
        from += count + random.below(2);
      }
      std::int64_t to = 0;
      for (auto b = blocks.rbegin(); b != blocks.rend(); ++b) {  // in another order
        b->to = to;
        to += b->count + random.below(2);
      }
      const std::int64_t moved = cols > 70 ? random.pick({cols, cols - 3}) : cols;
      const auto in = Grid<T>::normal(random, from, cols, pad);
      auto out = Grid<T>::normal(random, to, cols, pad), want = out;
      for (const RowBlock& b : blocks)
        for (std::int64_t i = 0; i < b.count; ++i)
          for (std::int64_t j = 0; j < moved; ++j) want(b.to + i, j) = in(b.from + i, j);
      copy_blocks<T>(device, out.view().col_range(0, moved), in.view().col_range(0, moved), blocks);
      bool same = true;
      for (std::int64_t i = 0; i < to; ++i)
        for (std::int64_t j = 0; j < cols; ++j) same = same && out(i, j) == want(i, j);
      CHECK(same);
      CHECK(out.guards_intact());
    }
}

TEST_CASE("tables and blocks that do not fit are refused", "[dispatch]") {
  Grid<float> a(4, 3), b(5, 3);
  std::vector<std::int32_t> table(8), token(8);
  std::vector<std::int64_t> counts(8);
  const std::vector<std::int64_t> cuts{0, 4}, short_cuts{0, 3};
  Stream& s = inline_stream();
  const auto move = [&](const RowBlock& block) {
    return error_of([&] { copy_blocks<float>(s, a.view(), b.view(), {&block, 1}); });
  };
  CHECK(move({0, 1, 4}) == "");
  CHECK_THAT(move({1, 0, 4}), says("copy_blocks", "4 rows from 0 of 5 to 1 of 4"));
  CHECK_THAT(move({0, 2, 4}), says("copy_blocks", "4 rows from 2 of 5 to 0 of 4"));
  CHECK_THAT(move({0, -1, 1}), says("copy_blocks", "1 rows from -1"));
  CHECK_THAT(error_of([&] {
               count_rows(s, {counts.data(), 3, 2}, {table.data(), 4, 2}, cuts);
             }),
             says("count_rows", "3 experts in ranks of 2"));
  CHECK_THAT(error_of([&] {
               count_rows(s, {counts.data(), 2, 2}, {table.data(), 4, 2}, short_cuts);
             }),
             says("count_rows", "cuts of 4 rows"));
  CHECK_THAT(error_of([&] {
               place_rows(s, {{table.data(), 4, 2}, token.data(), 0}, {}, {}, 3);
             }),
             says("place_rows", "2 columns for 3 experts"));
  CHECK_THAT(error_of([&] {
               place_rows(s, {{table.data(), 4, 2}, token.data(), 0}, {table.data(), 3, 2}, {}, 3);
             }),
             says("place_rows", "expert is"));
}
