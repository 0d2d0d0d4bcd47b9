#include "comm/tcp/network.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <random>

#include "core/error.h"

namespace weft::comm::tcp {
namespace {

constexpr std::uint64_t kMagic = 0x7765'6674'7463'7031;  // "weft", "tcp1"
constexpr std::chrono::seconds kGreeting{10};            // for who has connected to say who it is

/// What a rank says at rank 0's door.
struct Report {
  std::uint64_t magic = kMagic;
  std::int32_t num_ranks = 0, rank = 0, port = 0, unused = 0;
};
/// The answer: a text that says what is wrong (then nothing follows it), or the job's id and its places.
struct Answer {
  std::uint64_t job_id = 0;
  std::int32_t problem_bytes = 0, problem_code = 0;
};
struct WirePlace {
  std::array<char, 64> host{};
  std::int32_t port = 0;
};

std::string list_of(const std::vector<int>& ranks) {
  std::string out;
  constexpr std::size_t kMost = 10;
  for (std::size_t i = 0; i < std::min(ranks.size(), kMost); ++i) out += str(i == 0 ? "" : ", ", ranks[i]);
  return ranks.size() > kMost ? str(out, " and ", ranks.size() - kMost, " more") : out;
}

void tell_all(const std::vector<Socket>& ranks, ErrorCode code, const std::string& problem) {
  for (const Socket& rank : ranks) {
    if (!rank) continue;
    try {
      const auto deadline = Clock::now() + std::chrono::seconds(1);
      rank.send_value(Answer{0, static_cast<std::int32_t>(problem.size()), static_cast<std::int32_t>(code)}, deadline);
      rank.send_all(problem.data(), problem.size(), deadline);
    } catch (const Error&) {
      // it is gone already
    }
  }
}

/// Nothing when whoever is there is no rank of a Weft job.
std::optional<Report> read_report(const Socket& socket) {
  try {
    const auto report = socket.receive_value<Report>(Clock::now() + kGreeting);
    if (report.magic == kMagic) return report;
  } catch (const Error&) {
    // a stranger: a port scan, a health check
  }
  return std::nullopt;
}

}  // namespace

struct Network::Hello {
  std::uint64_t magic = kMagic, job_id = 0, group_id = 0;
  std::int64_t rank = 0;  // in the group
};

Network::Network(const Options& options)
    : options_(options), listener_(listen_on(0)), places_(static_cast<std::size_t>(options.num_ranks)) {
  const Clock::time_point deadline = Clock::now() + options_.connect_timeout;
  if (options_.rank == 0)
    gather_places(deadline);
  else
    report_to_master(deadline);
}

void Network::gather_places(Clock::time_point deadline) {
  const Socket door = listen_on(options_.master_port);
  std::random_device random;
  job_id_ = (std::uint64_t{random()} << 32U) | random();
  places_[0].port = port_of(listener_);  // its host is where the others have found it
  std::vector<Socket> ranks(places_.size());
  const auto fail = [&](ErrorCode code, const std::string& problem) {
    tell_all(ranks, code, problem);
    throw Error(code, problem, "see the output of the ranks that are named");
  };
  for (std::size_t num_here = 1; num_here < ranks.size();) {
    Socket socket = accept_before(door, deadline);
    if (!socket) {
      std::vector<int> missing;
      for (std::size_t r = 1; r < ranks.size(); ++r)
        if (!ranks[r]) missing.push_back(static_cast<int>(r));
      fail(ErrorCode::kTimeout, str("rank ", list_of(missing), " of ", ranks.size(), " did not come within ",
                                    options_.connect_timeout.count() / 1000, " s of the start"));
    }
    const std::optional<Report> report = read_report(socket);
    if (!report) continue;
    const auto rank = static_cast<std::size_t>(report->rank);
    std::string problem;
    if (report->num_ranks != options_.num_ranks)
      problem = str("rank ", report->rank, " was started as one of ", report->num_ranks, ", rank 0 as one of ",
                    options_.num_ranks);
    else if (report->rank < 1 || rank >= ranks.size() || ranks[rank])
      problem = str("two processes were started as rank ", report->rank);
    if (!problem.empty()) {
      ranks.push_back(std::move(socket));
      fail(ErrorCode::kInvalidArgument, problem);
    }
    places_[rank] = {socket.peer_address(), report->port};
    ranks[rank] = std::move(socket);
    ++num_here;
  }
  for (std::size_t r = 1; r < ranks.size(); ++r) {
    ranks[r].send_value(Answer{job_id_, 0, 0}, deadline);
    for (const Place& place : places_) {
      WirePlace wire;
      wire.port = place.port;
      std::copy_n(place.host.data(), std::min(place.host.size(), wire.host.size() - 1), wire.host.data());
      ranks[r].send_value(wire, deadline);
    }
  }
}

void Network::report_to_master(Clock::time_point deadline) {
  std::optional<Error> problem;
  try {
    const Socket master = connect_before(options_.master_host, options_.master_port, deadline);
    Report report;
    report.num_ranks = options_.num_ranks;
    report.rank = options_.rank;
    report.port = port_of(listener_);
    master.send_value(report, deadline);
    const auto answer = master.receive_value<Answer>(deadline + kGreeting);  // rank 0 has the last word on who is late
    if (answer.problem_bytes > 0) {
      std::string text(static_cast<std::size_t>(std::min(answer.problem_bytes, 4096)), '\0');
      master.receive_all(text.data(), text.size(), deadline + kGreeting);
      problem.emplace(static_cast<ErrorCode>(answer.problem_code), text, "rank 0 has given the job up");
    }
    job_id_ = answer.job_id;
    const std::string master_address = master.peer_address();
    for (Place& place : places_) {
      if (problem) break;
      const auto wire = master.receive_value<WirePlace>(deadline + kGreeting);
      place = {wire.host.data(), wire.port};
      // rank 0, and ranks that reached it on its own machine's loopback, are where this rank found rank 0
      if (place.host.empty() || is_loopback(place.host)) place.host = master_address;
    }
  } catch (const Error& e) {
    throw Error(e.code(), str("rank 0 at ", options_.master_host, " port ", options_.master_port, ": ", e.message()),
                "is rank 0 running, and may this machine connect to that port?");
  }
  if (problem) throw *problem;
}

Socket Network::accept_from(std::uint64_t group_id, int rank, Clock::time_point deadline) {
  std::lock_guard lock(accept_mutex_);  // nobody is kept from connecting meanwhile
  for (;;) {
    if (const auto found = early_.find({group_id, rank}); found != early_.end()) {
      Socket socket = std::move(found->second);
      early_.erase(found);
      return socket;
    }
    Socket socket = accept_before(listener_, deadline);
    if (!socket) return socket;
    try {
      const auto hello = socket.receive_value<Hello>(Clock::now() + kGreeting);
      if (hello.magic == kMagic && hello.job_id == job_id_)
        early_[{hello.group_id, static_cast<int>(hello.rank)}] = std::move(socket);
    } catch (const Error&) {
      // a stranger
    }
  }
}

std::vector<Socket> Network::connect(std::uint64_t group_id, const std::vector<int>& members, int rank) {
  const Clock::time_point deadline = Clock::now() + options_.connect_timeout;
  std::vector<Socket> sockets(members.size());
  for (int r = 0; r < rank; ++r) {
    const Place& place = places_[static_cast<std::size_t>(members[static_cast<std::size_t>(r)])];
    Socket socket = connect_before(place.host, place.port, deadline);
    Hello hello;
    hello.job_id = job_id_;
    hello.group_id = group_id;
    hello.rank = rank;
    socket.send_value(hello, deadline);
    sockets[static_cast<std::size_t>(r)] = std::move(socket);
  }
  for (int r = rank + 1; r < static_cast<int>(members.size()); ++r) {
    Socket socket = accept_from(group_id, r, deadline);
    if (!socket)
      throw Error(ErrorCode::kTimeout,
                  str("no connection from rank ", r, " within ", options_.connect_timeout.count() / 1000, " s"));
    sockets[static_cast<std::size_t>(r)] = std::move(socket);
  }
  std::lock_guard lock(mutex_);
  if (aborted_) throw Error(ErrorCode::kComm, "the job was aborted");
  for (const Socket& socket : sockets)
    if (socket) descriptors_.insert(socket.get());
  return sockets;
}

void Network::abort() noexcept {
  std::lock_guard lock(mutex_);
  aborted_ = true;
  for (const int descriptor : descriptors_) static_cast<void>(::shutdown(descriptor, SHUT_RDWR));
}

void Network::forget(const std::vector<Socket>& sockets) noexcept {
  std::lock_guard lock(mutex_);
  for (const Socket& socket : sockets)
    if (socket) descriptors_.erase(socket.get());
}

}  // namespace weft::comm::tcp
