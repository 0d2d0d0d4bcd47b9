// tests/support/cuda/capture.h - stream capture on the emulated GPU, and the graphs that come of it.
// Source: CUDA C++ Programming Guide, "Creating a Graph Using Stream Capture".
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

namespace weft::emulation {

inline std::atomic<int> no_graphs_on = -1;
/// As long as it lives, graphs cannot be instantiated on `device`, as where a driver lacks what is in them. One at a
/// time.
struct NoGraphsOn {
  explicit NoGraphsOn(int device) { no_graphs_on = device; }
  NoGraphsOn(const NoGraphsOn&) = delete;
  NoGraphsOn& operator=(const NoGraphsOn&) = delete;
  ~NoGraphsOn() { no_graphs_on = -1; }
};

class Queue;

/// Work of one or more queues, and what must come before what. Memory that was allocated in it is its own.
class Graph {
 public:
  struct Node {
    std::function<void()> work;
    std::vector<std::size_t> after;  ///< Earlier nodes.
  };
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph();
  /// One node at a time, in an order that its edges allow: as recorded, the last that is ready first, or mixed up
  /// (WEFT_EMULATION_ORDER). An edge that is missing shows in one of them.
  void run() const;

  std::vector<Node> nodes;
  std::map<void*, std::size_t> bytes_at;
};

/// A recording that is under way. All calls come from the thread that began it.
class Capture {
 public:
  using Places = std::set<std::size_t>;  ///< Nodes that what comes next is behind.

  explicit Capture(Queue& origin);
  ~Capture();
  void add(const Queue& queue, std::function<void()> work);
  /// Behind all that was added so, too, on whatever queue: kernels of NCCL, which keeps the order of their launches.
  void add_in_turn(const Queue& queue, std::function<void()> work);
  [[nodiscard]] const Places& places(const Queue& queue) { return last_[&queue]; }
  /// What `queue` gets next is behind `places`, too. It takes part from then on.
  void wait(Queue& queue, const Places& places);
  [[nodiscard]] void* allocate(const Queue& queue, std::size_t bytes);
  /// False for memory that is not this capture's.
  [[nodiscard]] bool free(const Queue& queue, void* data);
  /// It cannot become a graph any more.
  void spoil() { spoilt_ = true; }
  /// Null when it is spoilt, or `origin` did not begin it, or has not waited for all queues.
  [[nodiscard]] std::shared_ptr<Graph> end(const Queue& origin);

 private:
  std::shared_ptr<Graph> graph_ = std::make_shared<Graph>();
  const Queue* origin_;
  std::map<const Queue*, Places> last_;
  std::vector<Queue*> queues_;
  Places last_in_turn_;
  bool spoilt_ = false;
};

/// True while the calling thread has begun a capture and not ended it: some calls are refused then.
[[nodiscard]] bool is_capturing();

}  // namespace weft::emulation
