// parallel/moe/padded_gate.h - a gate with capacities whose rows travel padded to them, so that nobody need be told how
// many there are: no exchange of counts, no wait of the host, and shapes that are the same in every step.
// Letters: T rows in G routing groups, E experts, K choices, C capacity of an expert and group.
#pragma once

#include <memory>

#include "parallel/moe/gate.h"

namespace weft::parallel {

/// Whether a step of `options` may pad: a list of tokens with a bound per expert, over groups that no ranks share.
template <class T>
[[nodiscard]] bool can_pad(const Gate<T>& gate, const GateOptions& options);

/// `gate`, its kept entries in slots: C of each expert and group, [G * C, E]. Slots that are left over carry rows of
/// zeros, whose outputs nobody takes; results are those of `gate`. Source of sending whole capacities: GShard,
/// arXiv:2006.16668; of cutting them into chunks: Tutel, arXiv:2206.03382.
template <class T>
[[nodiscard]] std::unique_ptr<Gate<T>> padded(std::unique_ptr<Gate<T>> gate, const GateOptions& options);

}  // namespace weft::parallel
