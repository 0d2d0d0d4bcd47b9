// parallel/train/checkpoint.h - a training run on disk: any layout writes it, any layout reads it.
//
//   checkpoints/step-00000010/
//     manifest.json            format version, step, config, plan; for every tensor its shape and its pieces
//     rank-00000.safetensors   the pieces that one rank owns: "weight:NAME@BEGIN", "m:NAME@BEGIN", "v:NAME@BEGIN"
//
// Tensors have global names and global expert ids, never ranks; a piece is a run of elements of a tensor (of an
// expert whose columns are cut, a run a row), with a checksum per array. A folder appears under its name when all of it
// is on disk, and not before.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/safetensors.h"
#include "parallel/mesh.h"
#include "parallel/model/parameter_store.h"

namespace weft::parallel {

/// What a run is, beside its tensors.
struct CheckpointState {
  std::int64_t step = 0;             ///< Updates made.
  std::int64_t samples = 0;          ///< Sequences consumed: the data cursor, independent of the layout.
  std::int64_t tokens = 0;           ///< Targets trained on.
  std::string config_text;           ///< The run's config, as text.
  std::string plan_text;             ///< The plan in force, as text; empty for checkpoints that no run wrote (imports).
  std::vector<std::string> replans;  ///< Replanner::log.
  std::vector<std::vector<double>> previous_choices;  ///< [layers][E], for BalanceScope::kGlobalPrevious.
};

/// Writes `root`/step-XXXXXXXX. Collective over comms.world(). What existed before stays valid until the new one is
/// complete; a failure on any rank removes the half-written folder and throws Error{kIo} on every rank.
template <class T>
std::filesystem::path save_checkpoint(const std::filesystem::path& root, const ParameterStore<T>& store,
                                      const MeshComms& comms, const CheckpointState& state);

/// Weights alone, from arrays: for importers. One process; tensors: all of global_parameters(model), by name.
void save_weights(const std::filesystem::path& folder, const ModelConfig& model,
                  const std::map<std::string, std::vector<float>>& tensors, const std::string& config_text);

/// Folders under `root` that are complete by name, newest step first. Leftovers of killed saves are not among them.
[[nodiscard]] std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& root);
/// Removes all but the `keep` newest (0: keeps all), and leftovers of killed saves.
void prune_checkpoints(const std::filesystem::path& root, int keep);

/// Renames checkpoints of steps after `step` to "abandoned-...": a run that starts over from `step` must neither resume
/// from them nor count them among its newest. Returns how many.
int set_aside_checkpoints(const std::filesystem::path& root, std::int64_t step);

/// A checkpoint opened for reading: the manifest is parsed and checked for consistency, data is read on request.
class Checkpoint {
 public:
  struct Piece {
    int file = 0;
    std::int64_t begin = 0, count = 0;  ///< Elements of the flattened tensor.
    std::map<std::string, std::uint64_t>
        checksums;  ///< By array: "weight", and "m", "v" where there is optimizer state.
  };
  struct TensorEntry {
    std::vector<std::int64_t> shape;
    std::vector<Piece> pieces;  ///< In order; they tile the tensor exactly.
  };

  /// Throws Error{kIo} naming the folder and what is wrong: no manifest, damaged, another format version, a file
  /// missing, pieces that do not tile their tensor.
  explicit Checkpoint(const std::filesystem::path& folder);

  [[nodiscard]] const std::filesystem::path& folder() const noexcept { return folder_; }
  [[nodiscard]] const CheckpointState& state() const noexcept { return state_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] bool has_optimizer() const noexcept { return has_optimizer_; }
  [[nodiscard]] const std::map<std::string, TensorEntry>& tensors() const noexcept { return tensors_; }

  /// Throws Error{kInvalidArgument} with every tensor that the model has and the checkpoint lacks, the other way round,
  /// or of another shape.
  void check_model(const ModelConfig& model) const;
  /// Recomputes checksums of every `stride`-th piece from `first` on. Throws Error{kIo} naming the first that is
  /// damaged.
  void verify(int first = 0, int stride = 1) const;
  /// Elements [begin, begin + count) of array "weight", "m" or "v" of a tensor, converted to T.
  template <class T>
  void read(const std::string& array, const std::string& name, std::int64_t begin, std::int64_t count, T* out) const;

 private:
  [[nodiscard]] const SafetensorsReader& reader(int file) const;

  std::filesystem::path folder_;
  CheckpointState state_;
  DType dtype_ = DType::kF32;
  bool has_optimizer_ = false;
  std::vector<std::string> files_;
  std::map<std::string, TensorEntry> tensors_;
  mutable std::map<int, std::unique_ptr<SafetensorsReader>> readers_;
};

/// Fills this rank's weights and, when `with_optimizer`, its moments: every local element exactly once.
template <class T>
void load_checkpoint(const Checkpoint& checkpoint, ParameterStore<T>& store, bool with_optimizer);

/// The newest checkpoint under `root` whose every checksum holds, the ranks of `world` sharing the reading; nullptr
/// when there is none. Why a newer one was passed over goes to `refused`, a line each. Collective.
[[nodiscard]] std::unique_ptr<Checkpoint> newest_valid_checkpoint(const std::filesystem::path& root,
                                                                  comm::Communicator& world,
                                                                  std::vector<std::string>& refused);

}  // namespace weft::parallel
