// kernels/routing_groups.h - the routing groups of a table of tokens, as the kernels take them that see a group as a
// set.
#pragma once

#include <cstdint>

namespace weft::kernels {

/// Groups of `rows` rows each of a table with T rows. Where several ranks hold parts of each group, the table has the
/// rows of all of them, and each rank wants the results of its own.
struct RoutingGroups {
  std::int64_t rows = 1;
  const std::int32_t* order = nullptr;  ///< [T] rows of the table, group after group; null: they lie in this order.
  std::int64_t first = 0, count = 0;    ///< The rows [first, first + count) of the table that results are wanted for.

  /// All rows of a table, which lie in order.
  static constexpr RoutingGroups whole(std::int64_t group_rows, std::int64_t table_rows) {
    return {group_rows, nullptr, 0, table_rows};
  }
  /// The table's row that is row i of the groups.
  [[nodiscard]] constexpr std::int64_t row(std::int64_t i) const { return order != nullptr ? order[i] : i; }
  [[nodiscard]] constexpr bool wants(std::int64_t row) const { return row >= first && row < first + count; }
};

}  // namespace weft::kernels
