// comm/tcp/tcp_communicator.cpp - groups of ranks over TCP connections of their own (comm/message_communicator.h).
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "comm/message_communicator.h"
#include "comm/tcp/backend.h"
#include "comm/tcp/messages.h"
#include "comm/tcp/network.h"
#include "core/error.h"
#include "core/rng.h"

namespace weft::comm::tcp {
namespace {

class TcpCommunicator final : public MessageCommunicator {
 public:
  /// `members`: the ranks of the world that this group consists of.
  TcpCommunicator(std::shared_ptr<Network> network, std::uint64_t group_id, std::vector<int> members, int rank,
                  std::string name)
      : MessageCommunicator(rank, static_cast<int>(members.size()), std::move(name), network->options().scratch_bytes),
        network_(std::move(network)),
        group_id_(group_id),
        members_(std::move(members)),
        peers_(network_->connect(group_id, members_, rank)) {}
  ~TcpCommunicator() override { network_->forget(peers_); }

  std::chrono::milliseconds timeout() const noexcept override { return network_->options().timeout; }
  /// Ends every connection of this process: the other ranks get kComm and end by themselves.
  void abort(int) noexcept override { network_->abort(); }

 private:
  std::unique_ptr<Messages> messages() override {
    return std::make_unique<TcpMessages>(peers_, num_begun(), network_->options().timeout);
  }
  void broken() noexcept override {}  // every rank finds out by itself

  std::unique_ptr<Communicator> do_split(int color, int key, std::string_view child) override {
    std::unique_ptr<Communicator> out;
    collective("split", [&] {
      const std::array<std::int32_t, 2> mine{color, key};
      std::vector<std::array<std::int32_t, 2>> all(members_.size(), mine);
      const auto together = messages();
      for (int r = 0; r < size(); ++r) {
        if (r == rank()) continue;
        together->receive(&all[static_cast<std::size_t>(r)], sizeof mine, r);
        together->send(&mine, sizeof mine, r);
      }
      together->wait();
      if (color < 0) return;
      std::vector<std::pair<int, int>> order;  // (key, rank) of my color
      for (int r = 0; r < size(); ++r)
        if (all[static_cast<std::size_t>(r)][0] == color) order.emplace_back(all[static_cast<std::size_t>(r)][1], r);
      std::sort(order.begin(), order.end());
      std::vector<int> members;
      for (const auto& [_, r] : order) members.push_back(members_[static_cast<std::size_t>(r)]);
      const auto me = std::find(order.begin(), order.end(), std::pair(key, rank())) - order.begin();
      const std::uint64_t id = hash_name(str(group_id_, " ", num_begun(), " ", color, " ", members.front()));
      out = std::make_unique<TcpCommunicator>(network_, id, std::move(members), static_cast<int>(me),
                                              child_name(color, child));
    });
    return out;
  }

  std::shared_ptr<Network> network_;
  std::uint64_t group_id_;
  std::vector<int> members_;
  std::vector<Socket> peers_;  // [P]
};

}  // namespace

std::unique_ptr<Communicator> make_world(const Options& options) {
  WEFT_CHECK(options.num_ranks >= 1 && options.rank >= 0 && options.rank < options.num_ranks, "rank ", options.rank,
             " of ", options.num_ranks);
  auto network = std::make_shared<Network>(options);
  std::vector<int> everyone(static_cast<std::size_t>(options.num_ranks));
  for (int r = 0; r < options.num_ranks; ++r) everyone[static_cast<std::size_t>(r)] = r;
  constexpr std::uint64_t kWorldId = 1;
  return std::make_unique<TcpCommunicator>(std::move(network), kWorldId, std::move(everyone), options.rank, "world");
}

}  // namespace weft::comm::tcp
