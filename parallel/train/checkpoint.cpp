// parallel/train/checkpoint.cpp - the reading half of checkpoint.h.
#include "parallel/train/checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <utility>

#include "core/atomic_file.h"
#include "core/checksum.h"
#include "core/error.h"
#include "core/host_access.h"

namespace weft::parallel {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr std::int64_t kMaxManifestBytes = std::int64_t{1} << 30;

[[noreturn]] void damaged(const fs::path& folder, const std::string& what) {
  throw Error(ErrorCode::kIo, str("checkpoint ", folder.string(), ": ", what),
              "use an older checkpoint (`weft checkpoint ls`), or `--resume none` to start afresh");
}

/// JSON of at most the nesting that a manifest has: deeper text would overflow the stack when it is written out again.
Json parse_shallow(const std::string& text) {
  constexpr int kMaxDepth = 16;
  return Json::parse(text, [](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) throw Error(ErrorCode::kIo, "manifest.json is nested too deeply to be one");
    return true;
  });
}

Checkpoint::Piece parse_piece(const Json& json, std::size_t num_files) {
  Checkpoint::Piece piece;
  piece.file = json.at("file").get<int>();
  piece.begin = json.at("begin").get<std::int64_t>();
  piece.count = json.at("count").get<std::int64_t>();
  if (piece.file < 0 || static_cast<std::size_t>(piece.file) >= num_files)
    throw Error(ErrorCode::kIo, "a piece names a file that is not listed");
  for (const char* array : {"weight", "m", "v"})
    if (json.contains(array)) piece.checksums[array] = checksum_from_text(json.at(array).get<std::string>());
  return piece;
}

/// Why the pieces do not cover [0, count) once each; empty when they do.
std::string tiling_problem(const std::vector<Checkpoint::Piece>& pieces, std::int64_t count) {
  std::int64_t at = 0;
  for (const Checkpoint::Piece& piece : pieces) {
    if (piece.begin != at || piece.count <= 0) return str("elements from ", at, " on are missing or given twice");
    at += piece.count;
  }
  return at == count ? "" : str("it ends at element ", at, " of ", count);
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : folder_(folder) {
  if (!fs::is_directory(folder)) damaged(folder, "there is no such folder");
  try {
    Json manifest = parse_shallow(read_file(folder / "manifest.json", kMaxManifestBytes));
    if (manifest.at("format") != "weft.checkpoint") damaged(folder, "manifest.json is no checkpoint manifest");
    if (manifest.at("version") != 1)
      damaged(folder, str("format version ", manifest.at("version").dump(), "; this build reads version 1"));
    const std::uint64_t expected = checksum_from_text(manifest.at("checksum").get<std::string>());
    manifest.erase("checksum");
    const std::string rest = manifest.dump();
    if (checksum(rest.data(), static_cast<std::int64_t>(rest.size())) != expected)
      damaged(folder, "the checksum of manifest.json does not hold");
    state_.step = manifest.at("step").get<std::int64_t>();
    state_.samples = manifest.at("samples").get<std::int64_t>();
    state_.tokens = manifest.at("tokens").get<std::int64_t>();
    state_.config_text = manifest.at("config").get<std::string>();
    state_.plan_text = manifest.at("plan").get<std::string>();
    state_.replans = manifest.value("replans", std::vector<std::string>{});
    state_.previous_choices = manifest.at("previous_choices").get<std::vector<std::vector<double>>>();
    dtype_ = dtype_from_string(manifest.at("dtype").get<std::string>());
    has_optimizer_ = manifest.at("optimizer").get<bool>();
    files_ = manifest.at("files").get<std::vector<std::string>>();
    for (const auto& [name, entry] : manifest.at("tensors").items()) {
      TensorEntry& tensor = tensors_[name];
      tensor.shape = entry.at("shape").get<std::vector<std::int64_t>>();
      for (const Json& piece : entry.at("pieces")) tensor.pieces.push_back(parse_piece(piece, files_.size()));
      const std::int64_t count =
          std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{1}, std::multiplies<>());
      if (const std::string problem = tiling_problem(tensor.pieces, count); !problem.empty())
        damaged(folder, str("tensor ", name, ": ", problem));
    }
  } catch (const Json::exception& e) {
    damaged(folder, str("manifest.json is damaged: ", e.what()));
  }
  for (const std::string& file : files_)
    if (!fs::exists(folder / file)) damaged(folder, file + " is missing");
}

const SafetensorsReader& Checkpoint::reader(int file) const {
  std::unique_ptr<SafetensorsReader>& slot = readers_[file];
  if (!slot) slot = std::make_unique<SafetensorsReader>(folder_ / files_[static_cast<std::size_t>(file)]);
  return *slot;
}

void Checkpoint::check_model(const ModelConfig& model) const {
  std::string problems;
  std::set<std::string> expected;
  for (const ParameterSpec& spec : global_parameters(model)) {
    expected.insert(spec.name);
    const auto found = tensors_.find(spec.name);
    if (found == tensors_.end())
      problems += "\n  " + spec.name + " is missing from the checkpoint";
    else if (found->second.shape != spec.shape())
      problems += "\n  " + spec.name + " has another shape than the model's";
  }
  for (const auto& [name, entry] : tensors_)
    if (!expected.contains(name)) problems += "\n  " + name + " is not part of the model";
  if (!problems.empty())
    throw Error(ErrorCode::kInvalidArgument, str("checkpoint ", folder_.string(), " is of another model:", problems),
                "use the config that the checkpoint was made with (its manifest holds it)");
}

void Checkpoint::verify(int first, int stride) const {
  int index = 0;
  for (const auto& [name, tensor] : tensors_)
    for (const Piece& piece : tensor.pieces) {
      if (index++ % stride != first) continue;
      for (const auto& [array, expected] : piece.checksums) {
        const SafetensorsReader& file = reader(piece.file);
        const TensorInfo& info = file.get(str(array, ":", name, "@", piece.begin));
        if (info.dtype != dtype_ || info.num_elements() != piece.count)
          damaged(folder_,
                  str(files_[static_cast<std::size_t>(piece.file)], ": ", info.name, " is not what the manifest says"));
        const auto data = file.data(info);
        if (checksum(data.data(), static_cast<std::int64_t>(data.size())) != expected)
          damaged(folder_,
                  str(files_[static_cast<std::size_t>(piece.file)], ": the checksum of ", info.name, " does not hold"));
      }
    }
}

template <class T>
void Checkpoint::read(const std::string& array, const std::string& name, std::int64_t begin, std::int64_t count,
                      T* out) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) damaged(folder_, str("tensor ", name, " is missing"));
  const std::vector<Piece>& pieces = found->second.pieces;  // in order: a tensor of cut experts has one a row and rank
  auto piece =
      std::partition_point(pieces.begin(), pieces.end(), [&](const Piece& p) { return p.begin + p.count <= begin; });
  for (; piece != pieces.end() && piece->begin < begin + count; ++piece) {
    const std::int64_t first = std::max(begin, piece->begin);
    const std::int64_t last = std::min(begin + count, piece->begin + piece->count);
    const SafetensorsReader& file = reader(piece->file);
    file.read(file.get(str(array, ":", name, "@", piece->begin)), first - piece->begin, last - first,
              out + (first - begin));
  }
}

template <class T>
void load_checkpoint(const Checkpoint& checkpoint, ParameterStore<T>& store, bool with_optimizer) {
  if (with_optimizer && !checkpoint.has_optimizer())
    throw Error(ErrorCode::kInvalidArgument, str("checkpoint ", checkpoint.folder().string(), " has weights alone"),
                "start from it with --init_from instead of --resume");
  /// Elements [first, last) of the rank's memory, all in parameter p.
  const auto read = [&](const char* array, const LocalParameter& p, std::int64_t first, std::int64_t last,
                        Wide<T>* out) {
    for (const ElementRun& run : p.runs(first - p.offset, last - first))
      checkpoint.read(array, p.spec.name, run.tensor_begin, run.count, out + p.offset + run.local_begin - first);
  };
  set_weights<T>(
      store, [&](const LocalParameter& p, Wide<T>* out) { read("weight", p, p.offset, p.offset + p.count(), out); });
  if (!with_optimizer) return;
  HostAccess access(store.device());
  for (int b = 0; b < static_cast<int>(store.table().buckets().size()); ++b)
    for (const UpdateRun& run : update_runs(store, b))
      for (const auto& [array, data] : {std::pair{"m", store.m()}, {"v", store.v()}})
        access.fill(data + run.state, run.end - run.begin,
                    [&, array = array](Wide<T>* out) { read(array, *run.parameter, run.begin, run.end, out); });
}

std::unique_ptr<Checkpoint> newest_valid_checkpoint(const fs::path& root, comm::Communicator& world,
                                                    std::vector<std::string>& refused) {
  const auto stream = make_inline_stream();
  const std::vector<fs::path> mine = list_checkpoints(root);
  std::int64_t candidates = static_cast<std::int64_t>(mine.size());
  world.broadcast(comm::as_buffer(&candidates, 1), 0, *stream);  // rank 0's view of the folder decides
  for (std::int64_t i = 0; i < candidates; ++i) {
    std::unique_ptr<Checkpoint> checkpoint;
    std::string problem;
    try {
      if (i >= static_cast<std::int64_t>(mine.size()))
        throw Error(ErrorCode::kIo, "this rank does not see the checkpoint");
      checkpoint = std::make_unique<Checkpoint>(mine[static_cast<std::size_t>(i)]);
      checkpoint->verify(world.rank(), world.size());
    } catch (const Error& e) {
      problem = e.message();
    }
    std::int32_t failures = problem.empty() ? 0 : 1;
    world.all_reduce(comm::as_buffer(&failures, 1), comm::as_buffer(&failures, 1), comm::ReduceOp::kSum, *stream);
    if (failures == 0) return checkpoint;
    refused.push_back(!problem.empty() ? problem
                                       : str(mine[static_cast<std::size_t>(i)].string(), " failed on another rank"));
  }
  return nullptr;
}

template void Checkpoint::read(const std::string&, const std::string&, std::int64_t, std::int64_t, float*) const;
template void Checkpoint::read(const std::string&, const std::string&, std::int64_t, std::int64_t, double*) const;
template void load_checkpoint(const Checkpoint&, ParameterStore<float>&, bool);
template void load_checkpoint(const Checkpoint&, ParameterStore<double>&, bool);
template void load_checkpoint(const Checkpoint&, ParameterStore<BF16>&, bool);

}  // namespace weft::parallel
