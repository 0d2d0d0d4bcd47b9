// parallel/train/event_file.h - scalars for TensorBoard: records of Event messages, appended to a file.
// Sources: TensorFlow's "TFRecord and tf.train.Example" (framing: length, masked CRC-32C of the length, data, masked
// CRC-32C of the data); event.proto and summary.proto of TensorBoard's compat folder (field numbers); the Protocol
// Buffers encoding guide (wire format).
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace weft::parallel {

using Scalar = std::pair<std::string, double>;  ///< Tag and value.

/// `data` as a record.
[[nodiscard]] std::string framed(std::string_view data);
/// One Event message with a value for each scalar. wall_time_s: since 1970.
[[nodiscard]] std::string scalar_event(std::int64_t step, double wall_time_s, std::span<const Scalar> scalars);

/// A file of its own for each start of a run, as TensorBoard expects of its writers.
class EventFile {
 public:
  /// Makes `folder` and a new file in it. What other files there say of `first_step` and later becomes void for
  /// readers: the run goes on from an earlier checkpoint. Throws Error{kIo}.
  EventFile(const std::filesystem::path& folder, std::int64_t first_step);
  /// Appends one event with the time of now, and flushes it. Throws Error{kIo}.
  void write(std::int64_t step, std::span<const Scalar> scalars);

 private:
  void append(const std::string& record);

  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace weft::parallel
