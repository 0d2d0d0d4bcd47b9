#include "tests/support/cuda/capture.h"

#include <cstring>
#include <random>
#include <utility>

#include "tests/support/cuda/machine.h"

namespace weft::emulation {
namespace {

thread_local int num_captures = 0;
constexpr int kNaN = 0xff;

}  // namespace

bool is_capturing() { return num_captures > 0; }

Graph::~Graph() {
  for (const auto& [data, bytes] : bytes_at) free_device_bytes(data);
}

void Graph::run() const {
  std::vector<std::size_t> missing(nodes.size());
  std::vector<std::vector<std::size_t>> followers(nodes.size());
  std::vector<std::size_t> ready;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    missing[i] = nodes[i].after.size();
    for (const std::size_t before : nodes[i].after) followers[before].push_back(i);
    if (missing[i] == 0) ready.push_back(i);
  }
  thread_local std::mt19937 random(1);
  while (!ready.empty()) {
    std::size_t at = 0;
    for (std::size_t i = 1; i < ready.size(); ++i)
      if (order_mode() == 1 ? ready[i] > ready[at] : ready[i] < ready[at]) at = i;
    if (order_mode() == 2) at = random() % ready.size();
    const std::size_t next = std::exchange(ready[at], ready.back());
    ready.pop_back();
    nodes[next].work();
    for (const std::size_t follower : followers[next])
      if (--missing[follower] == 0) ready.push_back(follower);
  }
}

Capture::Capture(Queue& origin) : origin_(&origin) {
  ++num_captures;
  wait(origin, {});
}

Capture::~Capture() {
  --num_captures;
  for (Queue* queue : queues_) queue->set_capture(nullptr);
}

void Capture::wait(Queue& queue, const Places& places) {
  if (last_.find(&queue) == last_.end()) {
    queues_.push_back(&queue);
    queue.set_capture(this);
  }
  last_[&queue].insert(places.begin(), places.end());
}

void Capture::add(const Queue& queue, std::function<void()> work) {
  Places& last = last_[&queue];
  graph_->nodes.push_back({std::move(work), {last.begin(), last.end()}});
  last = {graph_->nodes.size() - 1};
}

void Capture::add_in_turn(const Queue& queue, std::function<void()> work) {
  last_[&queue].insert(last_in_turn_.begin(), last_in_turn_.end());
  add(queue, std::move(work));
  last_in_turn_ = last_[&queue];
}

void* Capture::allocate(const Queue& queue, std::size_t bytes) {
  void* const data = allocate_device_bytes(queue.device(), bytes);
  if (data == nullptr) return nullptr;
  graph_->bytes_at[data] = bytes;
  add(queue, [=] { std::memset(data, kNaN, bytes); });
  return data;
}

bool Capture::free(const Queue& queue, void* data) {
  const auto at = graph_->bytes_at.find(data);
  if (at == graph_->bytes_at.end()) return false;
  add(queue, [=, bytes = at->second] { std::memset(data, kNaN, bytes); });
  return true;
}

std::shared_ptr<Graph> Capture::end(const Queue& origin) {
  if (spoilt_ || &origin != origin_) return nullptr;
  std::vector<bool> joined(graph_->nodes.size(), false);
  for (const std::size_t node : last_[&origin]) joined[node] = true;
  for (std::size_t node = joined.size(); node-- > 0;)
    if (joined[node])
      for (const std::size_t before : graph_->nodes[node].after) joined[before] = true;
  for (const bool is_joined : joined)
    if (!is_joined) return nullptr;
  return graph_;
}

}  // namespace weft::emulation
