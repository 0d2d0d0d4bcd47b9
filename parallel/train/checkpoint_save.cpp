// parallel/train/checkpoint_save.cpp - the writing half of checkpoint.h.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/atomic_file.h"
#include "core/checksum.h"
#include "core/error.h"
#include "core/host_access.h"
#include "parallel/train/checkpoint.h"

namespace weft::parallel {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kStepPrefix = "step-";
constexpr const char* kTemporaryPrefix = ".saving-";

std::string step_name(std::int64_t step) {
  std::string digits = std::to_string(step);
  return kStepPrefix + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits;
}

std::string rank_file(int rank) {
  std::string digits = std::to_string(rank);
  return "rank-" + std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits + ".safetensors";
}

/// A run of elements that this rank owns. T: the type they are stored as.
template <class T>
struct OwnedPiece {
  const ParameterSpec* spec;
  std::int64_t begin, count;  // in the tensor
  const T* weight;
  const T* m;
  const T* v;
};

/// The weights as they are stored: elements from `state` of m and v on, which are those from `at` of the weights on.
template <class T>
const Wide<T>* stored_weights(const ParameterStore<T>& store, std::int64_t at, std::int64_t state) {
  if constexpr (std::is_same_v<T, Wide<T>>)
    return store.weights() + at;
  else
    return store.masters() + state;
}

template <class T>
std::vector<OwnedPiece<Wide<T>>> owned_pieces(const ParameterStore<T>& store) {
  std::vector<OwnedPiece<Wide<T>>> out;
  const auto buckets = store.table().buckets();
  for (int b = 0; b < static_cast<int>(buckets.size()); ++b) {
    const Bucket& bucket = buckets[static_cast<std::size_t>(b)];
    const std::int64_t begin = bucket.offset + bucket.owner_begin(bucket.replica_rank);
    const std::int64_t end = bucket.offset + bucket.owner_begin(bucket.replica_rank + 1);
    const std::int64_t state = store.state_offset(b) - (bucket.offset + store.update_begin(b));
    for (const LocalParameter& p : store.table().parameters()) {
      const std::int64_t first = std::max(begin, p.offset), last = std::min(end, p.offset + p.count());
      if (first >= last) continue;
      for (const ElementRun& run : p.runs(first - p.offset, last - first)) {
        const std::int64_t at = p.offset + run.local_begin;
        out.push_back({&p.spec, run.tensor_begin, run.count, stored_weights(store, at, state + at),
                       store.m() + state + at, store.v() + state + at});
      }
    }
  }
  return out;
}

/// Writes this rank's file; returns its part of the manifest: {name: {shape, pieces: [{file, begin, count, weight, m,
/// v}]}}.
template <class T>
Json write_rank_file(const fs::path& path, const ParameterStore<T>& store, int rank) {
  const std::vector<OwnedPiece<Wide<T>>> pieces = owned_pieces(store);
  std::vector<TensorInfo> infos;
  for (const auto& p : pieces)
    for (const char* array : {"weight", "m", "v"})
      infos.push_back({str(array, ":", p.spec->name, "@", p.begin), dtype_of<Wide<T>>, {p.count}, 0});
  SafetensorsWriter writer(path, infos, {{"format", "weft.checkpoint"}});
  HostAccess access(store.device());
  Json entries = Json::object();
  auto info = infos.begin();
  for (const auto& p : pieces) {
    Json entry = {{"file", rank}, {"begin", p.begin}, {"count", p.count}};
    for (const auto& [array, there] : {std::pair{"weight", p.weight}, {"m", p.m}, {"v", p.v}}) {
      const Wide<T>* data = access.read(there, p.count);
      const std::int64_t bytes = p.count * static_cast<std::int64_t>(sizeof(Wide<T>));
      writer.write((info++)->name, data, bytes);
      entry[array] = checksum_to_text(checksum(data, bytes));
    }
    entries[p.spec->name]["shape"] = p.spec->shape();
    entries[p.spec->name]["pieces"].push_back(std::move(entry));
  }
  writer.finish();
  return entries;
}

/// The text of every rank, on every rank.
std::vector<std::string> gather_text(comm::Communicator& world, const std::string& text, Stream& stream) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(world.size()));
  const auto size = static_cast<std::int64_t>(text.size());
  comm::all_gather(world, comm::as_buffer(&size, 1), comm::as_buffer(sizes.data(), world.size()), stream);
  std::int64_t total = 0;
  for (const std::int64_t s : sizes) total += s;
  std::string all(static_cast<std::size_t>(total), '\0');
  world.all_gather_v({text.data(), size, DType::kU8}, {all.data(), total, DType::kU8}, sizes, stream);
  std::vector<std::string> out;
  std::size_t at = 0;
  for (const std::int64_t s : sizes) {
    out.push_back(all.substr(at, static_cast<std::size_t>(s)));
    at += static_cast<std::size_t>(s);
  }
  return out;
}

Json manifest_head(const CheckpointState& state, DType dtype, bool has_optimizer) {
  return {{"format", "weft.checkpoint"}, {"version", 1},
          {"step", state.step},          {"samples", state.samples},
          {"tokens", state.tokens},      {"dtype", to_string(dtype)},
          {"optimizer", has_optimizer},  {"config", state.config_text},
          {"plan", state.plan_text},     {"previous_choices", state.previous_choices},
          {"replans", state.replans}};
}

/// Runs `action` on every rank; when it failed anywhere, throws the lowest failing rank's error on all of them.
template <class F>
void on_all_ranks(comm::Communicator& world, Stream& stream, const F& action) {
  std::string problem;
  try {
    action();
  } catch (const Error& e) {
    problem = e.message();
  } catch (const std::exception& e) {
    problem = e.what();
  }
  const std::vector<std::string> problems = gather_text(world, problem, stream);
  for (std::size_t r = 0; r < problems.size(); ++r)
    if (!problems[r].empty()) throw Error(ErrorCode::kIo, str("rank ", r, ": ", problems[r]));
}

/// The manifest with a checksum over all its other entries.
void write_sealed(const fs::path& folder, Json manifest) {
  const std::string text = manifest.dump();
  manifest["checksum"] = checksum_to_text(checksum(text.data(), static_cast<std::int64_t>(text.size())));
  write_file(folder / "manifest.json", manifest.dump());
}

void write_manifest(const fs::path& folder, const CheckpointState& state, DType dtype,
                    const std::vector<std::string>& parts) {
  Json manifest = manifest_head(state, dtype, true);
  manifest["files"] = Json::array();
  Json& tensors = manifest["tensors"] = Json::object();
  for (std::size_t r = 0; r < parts.size(); ++r) {
    manifest["files"].push_back(rank_file(static_cast<int>(r)));
    const Json part = Json::parse(parts[r]);
    for (const auto& [name, entry] : part.items()) {
      tensors[name]["shape"] = entry["shape"];
      for (const Json& piece : entry["pieces"]) tensors[name]["pieces"].push_back(piece);
    }
  }
  for (auto& [name, entry] : tensors.items())
    std::sort(entry["pieces"].begin(), entry["pieces"].end(),
              [](const Json& a, const Json& b) { return a["begin"] < b["begin"]; });
  write_sealed(folder, std::move(manifest));
}

}  // namespace

template <class T>
fs::path save_checkpoint(const fs::path& root, const ParameterStore<T>& store, const MeshComms& comms,
                         const CheckpointState& state) {
  comm::Communicator& world = comms.host_world();
  const auto stream = make_inline_stream();
  const fs::path folder = root / step_name(state.step), temporary = root / (kTemporaryPrefix + step_name(state.step));
  try {
    on_all_ranks(world, *stream, [&] {
      if (world.rank() == 0) make_empty_folder(temporary);
    });
    std::string part;
    on_all_ranks(world, *stream,
                 [&] { part = write_rank_file(temporary / rank_file(world.rank()), store, world.rank()).dump(); });
    const std::vector<std::string> parts = gather_text(world, part, *stream);
    on_all_ranks(world, *stream, [&] {
      if (world.rank() != 0) return;
      write_manifest(temporary, state, dtype_of<Wide<T>>, parts);
      remove_folder(folder);  // the same step once more: its content is the same
      commit_folder(temporary, folder);
    });
  } catch (const Error&) {
    std::error_code ignored;
    if (world.rank() == 0) fs::remove_all(temporary, ignored);
    throw;
  }
  return folder;
}

void save_weights(const fs::path& folder, const ModelConfig& model,
                  const std::map<std::string, std::vector<float>>& tensors, const std::string& config_text) {
  const fs::path temporary = folder.parent_path() / (kTemporaryPrefix + folder.filename().string());
  make_empty_folder(temporary);
  CheckpointState state;
  state.config_text = config_text;
  Json manifest = manifest_head(state, DType::kF32, false);
  manifest["files"] = {rank_file(0)};
  const std::vector<ParameterSpec> specs = global_parameters(model);
  std::vector<TensorInfo> infos;
  for (const ParameterSpec& spec : specs)
    infos.push_back({"weight:" + spec.name + "@0", DType::kF32, {spec.count()}, 0});
  SafetensorsWriter writer(temporary / rank_file(0), infos, {{"format", "weft.checkpoint"}});
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const std::vector<float>& data = tensors.at(specs[i].name);
    WEFT_CHECK(static_cast<std::int64_t>(data.size()) == specs[i].count(), specs[i].name, " has ", data.size(),
               " elements, the model wants ", specs[i].count());
    const std::int64_t bytes = specs[i].count() * static_cast<std::int64_t>(sizeof(float));
    writer.write(infos[i].name, data.data(), bytes);
    manifest["tensors"][specs[i].name] = {{"shape", specs[i].shape()},
                                          {"pieces",
                                           {{{"file", 0},
                                             {"begin", 0},
                                             {"count", specs[i].count()},
                                             {"weight", checksum_to_text(checksum(data.data(), bytes))}}}}};
  }
  writer.finish();
  write_sealed(temporary, std::move(manifest));
  remove_folder(folder);
  commit_folder(temporary, folder);
}

std::vector<fs::path> list_checkpoints(const fs::path& root) {
  std::vector<fs::path> out;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(root, missing)) {
    const std::string name = entry.path().filename().string();
    const std::string digits = name.starts_with(kStepPrefix) ? name.substr(std::string(kStepPrefix).size()) : "";
    if (entry.is_directory() && !digits.empty() && digits.find_first_not_of("0123456789") == std::string::npos)
      out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end(), [](const fs::path& a, const fs::path& b) {
    const std::string x = a.filename().string(), y = b.filename().string();
    return x.size() != y.size() ? x.size() > y.size() : x > y;
  });
  return out;
}

int set_aside_checkpoints(const fs::path& root, std::int64_t step) {
  int count = 0;
  for (const fs::path& folder : list_checkpoints(root)) {
    if (folder.filename().string() <= step_name(step) && folder.filename().string().size() <= step_name(step).size())
      continue;
    fs::path aside;
    for (int n = 0; aside.empty() || fs::exists(aside); ++n)
      aside = root / str("abandoned-", n > 0 ? str(n, "-") : "", folder.filename().string());
    std::error_code error;
    fs::rename(folder, aside, error);
    if (error) throw Error(ErrorCode::kIo, str("cannot move ", folder.string(), " aside: ", error.message()));
    ++count;
  }
  return count;
}

void prune_checkpoints(const fs::path& root, int keep) {
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(root, missing)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kTemporaryPrefix) || name.ends_with(".deleted")) fs::remove_all(entry.path(), missing);
  }
  if (keep == 0) return;
  const std::vector<fs::path> all = list_checkpoints(root);
  for (std::size_t i = static_cast<std::size_t>(keep); i < all.size(); ++i) remove_folder(all[i]);
}

template fs::path save_checkpoint(const fs::path&, const ParameterStore<float>&, const MeshComms&,
                                  const CheckpointState&);
template fs::path save_checkpoint(const fs::path&, const ParameterStore<double>&, const MeshComms&,
                                  const CheckpointState&);
template fs::path save_checkpoint(const fs::path&, const ParameterStore<BF16>&, const MeshComms&,
                                  const CheckpointState&);

}  // namespace weft::parallel
