// parallel/moe/routing.h - what a gate declares about its routing, and what the emission follows from.
// Source: the two-tensor formulation of all routers, arXiv:2401.15969: dispatch what, combine with which weight.
// Letters: T rows of a unit, E experts, K choices of a token, G routing groups (RG) of the unit, C slots of an expert
// and group.
#pragma once

#include <cstdint>

namespace weft::parallel {

/// kTokenList: each token names experts; table [T, K]. kSlotList: each expert names tokens; table [G * C, E], entry
/// (s, e) is slot s of expert e. kSlotMatrix: a slot is a mixture of the tokens of its group; table as kSlotList, and
/// matrices [T, E * C] of the weights that mix tokens into slots and slots into tokens; column e * C + j is slot j of
/// expert e in the row's group.
enum class RoutingForm : std::uint8_t { kTokenList, kSlotList, kSlotMatrix };

/// What a gate may look at before it says what it needs.
struct GateLayout {
  int sequence_ranks = 1;  ///< SP: ranks that share each routing group.
};

struct GateNeeds {
  RoutingForm form = RoutingForm::kTokenList;
  /// Rows go to places known before the layer's attention: the forward phases up to the last that writes the table read
  /// no hidden states. They and the exchange of counts then stand in front of the attention, and overlap it.
  bool early_destinations = false;
  bool count_exchange = true;  ///< Only routing knows how many rows go where; false: every table entry travels.
  bool static_shapes = false;  ///< The same number of rows every step: buffers are exact, nothing ever grows.
  bool collective = false;     ///< Has phases that talk to other ranks.
  double travelling = 1.0;     ///< Share of a rank's table entries that it sends, on average.
  bool later_tokens = false;   ///< A token's routing depends on tokens behind it: no use for generating text.
};

/// The table of a unit: entry (d, k) is a row that may travel. A chunk is a range of d.
struct TableShape {
  std::int64_t rows = 0;        ///< D
  std::int64_t width = 0;       ///< K
  std::int64_t group_rows = 0;  ///< Table rows of one routing group.
};

}  // namespace weft::parallel
