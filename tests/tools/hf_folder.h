// tests/tools/hf_folder.h - a Hugging Face folder of the fixtures, copied to be changed.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/atomic_file.h"
#include "core/safetensors.h"
#include "tests/support/temp_folder.h"

namespace weft::test {

struct HfTensor {
  TensorInfo info;
  std::string bytes;
};

class HfCopy {
 public:
  explicit HfCopy(const std::string& fixture) {
    std::filesystem::copy(std::filesystem::path(WEFT_SOURCE_DIR) / "tests/data/hf" / fixture, path());
  }
  [[nodiscard]] std::filesystem::path path() const { return temp_ / "hf"; }
  [[nodiscard]] std::filesystem::path out() const { return temp_ / "checkpoint"; }

  /// Changes a JSON file of the folder.
  void edit_json(const std::string& file, const std::function<void(nlohmann::json&)>& change) const {
    auto json = nlohmann::json::parse(read_file(path() / file));
    change(json);
    write_file(path() / file, json.dump());
  }
  /// Changes the tensors of a file.
  void edit_tensors(const std::function<void(std::vector<HfTensor>&)>& change,
                    const std::string& file = "model.safetensors") const {
    std::vector<HfTensor> tensors;
    {
      const SafetensorsReader reader(path() / file);
      for (const TensorInfo& info : reader.tensors()) {
        const auto data = reader.data(info);
        tensors.push_back({info, {reinterpret_cast<const char*>(data.data()), data.size()}});
      }
    }
    change(tensors);
    std::vector<TensorInfo> infos;
    for (const HfTensor& t : tensors) infos.push_back(t.info);
    SafetensorsWriter writer(path() / file, infos);
    for (const HfTensor& t : tensors)
      writer.write(t.info.name, t.bytes.data(), static_cast<std::int64_t>(t.bytes.size()));
    writer.finish();
  }

 private:
  TempFolder temp_;
};

}  // namespace weft::test
