#include "tools/checkpoint/checkpoints.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using parallel::Checkpoint;
using Shape = std::vector<std::int64_t>;

constexpr std::int64_t kBlock = 1 << 18;  // elements compared at a time
constexpr const char* kManifest = "manifest.json";

std::int64_t count_of(const Shape& shape) {
  std::int64_t n = 1;
  for (const std::int64_t d : shape) n *= d;
  return n;
}

void compare_values(const Checkpoint& a, const Checkpoint& b, std::int64_t count, TensorDifference& out) {
  double largest = 0.0;
  std::vector<double> x(static_cast<std::size_t>(std::min(kBlock, count))), y(x.size());
  for (std::int64_t at = 0; at < count; at += kBlock) {
    const std::int64_t n = std::min(kBlock, count - at);
    a.read(out.array, out.name, at, n, x.data());
    b.read(out.array, out.name, at, n, y.data());
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      largest = std::max(largest, std::fabs(x[i]));
      if (x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]))) continue;
      ++out.num_different;
      const double difference = std::fabs(x[i] - y[i]);
      if (std::isnan(difference) || difference > out.max_abs) out.max_abs = difference;  // a NaN stays
    }
  }
  if (out.num_different > 0)
    out.max_relative = largest > 0.0 ? out.max_abs / largest : std::numeric_limits<double>::infinity();
}

}  // namespace

std::vector<fs::path> find_checkpoints(const fs::path& path) {
  if (!fs::is_directory(path))
    throw Error(ErrorCode::kIo, str("there is no folder ", path.string()), "give a run folder or a checkpoint");
  if (fs::exists(path / kManifest)) return {path};
  for (const fs::path& root : {path / "checkpoints", path})
    if (std::vector<fs::path> found = parallel::list_checkpoints(root); !found.empty()) return found;
  throw Error(ErrorCode::kIo, str(path.string(), " has no checkpoints"), "checkpoint.every = 0 saves none");
}

CheckpointSummary summarize(const fs::path& folder, bool verify) {
  CheckpointSummary out;
  out.folder = folder;
  try {
    const Checkpoint checkpoint(folder);
    if (verify) checkpoint.verify();
    out.step = checkpoint.state().step;
    out.samples = checkpoint.state().samples;
    out.tokens = checkpoint.state().tokens;
    out.dtype = checkpoint.dtype();
    out.has_optimizer = checkpoint.has_optimizer();
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      ++out.num_tensors;
      out.num_elements += count_of(tensor.shape);
    }
  } catch (const Error& e) {
    out.problem = e.message();
  }
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(folder, gone))
    if (entry.is_regular_file(gone)) out.bytes += static_cast<std::int64_t>(entry.file_size(gone));
  return out;
}

std::vector<TensorDifference> compare(const Checkpoint& a, const Checkpoint& b) {
  std::set<std::string> names;
  for (const Checkpoint* c : {&a, &b})
    for (const auto& [name, tensor] : c->tensors()) names.insert(name);
  std::vector<std::string> arrays{"weight"};
  if (a.has_optimizer() && b.has_optimizer()) arrays.insert(arrays.end(), {"m", "v"});
  std::vector<TensorDifference> out;
  for (const std::string& name : names) {
    const auto in_a = a.tensors().find(name), in_b = b.tensors().find(name);
    const bool both = in_a != a.tensors().end() && in_b != b.tensors().end();
    const std::string problem = both ? (in_a->second.shape == in_b->second.shape ? "" : "of another shape")
                                : in_a != a.tensors().end() ? "only in A"
                                                            : "only in B";
    if (!problem.empty()) {
      out.push_back({"weight", name, problem});
      continue;
    }
    for (const std::string& array : arrays) {
      out.push_back({array, name, ""});
      compare_values(a, b, count_of(in_a->second.shape), out.back());
    }
  }
  return out;
}

}  // namespace weft::tools
