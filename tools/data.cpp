// tools/data.cpp - weft data tokenize|inspect
#include <CLI/CLI.hpp>
#include <cctype>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/token_shard.h"
#include "tools/command.h"
#include "tools/data/byte_tokenizer.h"
#include "tools/data/token_stats.h"
#include "tools/number_checks.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMaxTextBytes = std::int64_t{1} << 31;  // a token file holds no more tokens

struct TokenizeOptions {
  std::vector<std::string> texts;
  std::string out, val_out;
  double val_fraction = 0.05;
};

struct InspectCommand {
  std::vector<std::string> files;
  InspectOptions options;
  int top = 10;
  bool as_json = false;
};

void write_tokens(const std::string& path, const std::vector<std::uint16_t>& tokens) {
  if (const fs::path folder = fs::path(path).parent_path(); !folder.empty()) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) throw Error(ErrorCode::kIo, str("cannot make the folder ", folder.string(), ": ", error.message()));
  }
  TokenShardWriter writer(path);
  writer.append(std::vector<std::int32_t>(tokens.begin(), tokens.end()));
  writer.finish();
  const auto documents = std::count(tokens.begin(), tokens.end(), kEndOfText);
  std::cout << path << ": " << tokens.size() << " tokens, " << documents
            << (documents == 1 ? " document" : " documents") << "\n";
}

int tokenize(const TokenizeOptions& options) {
  const bool hold_out = !options.val_out.empty();
  if (options.out == options.val_out)
    throw Error(ErrorCode::kInvalidArgument, str("--out and --val_out are the same file, ", options.out),
                "give them different names");
  std::vector<std::string> texts;
  std::uint64_t total_bytes = 0;
  for (const std::string& path : options.texts) {
    texts.push_back(read_file(path, kMaxTextBytes));
    total_bytes += texts.back().size();
  }
  ByteTokenizer tokenizer(hold_out ? options.val_fraction : 0.0, total_bytes);
  for (const std::string& text : texts) tokenizer.add(text);
  if (hold_out && tokenizer.val().empty())
    throw Error(ErrorCode::kInvalidArgument, str("the text is too short to hold out ", options.val_fraction, " of it"),
                "give more text, or no --val_out");
  write_tokens(options.out, tokenizer.train());
  if (hold_out) write_tokens(options.val_out, tokenizer.val());
  return 0;
}

// A byte as it is read: 'e', '\n', 0xff, <end of text>; "" for ids of other vocabularies.
std::string byte_name(std::int32_t token, std::int32_t max_id) {
  if (max_id > kEndOfText) return "";
  if (token == kEndOfText) return "<end of text>";
  if (token == '\n') return "'\\n'";
  if (std::isprint(token) != 0) return str("'", static_cast<char>(token), "'");
  return str("0x", std::hex, token);
}

std::string entropy_name(int order) {
  constexpr const char* kNames[] = {"", "unigram", "bigram", "trigram"};
  return order <= 3 ? kNames[order] : str(order, "-gram");
}

nlohmann::ordered_json to_json(const TokenStats& stats, const InspectCommand& command, bool bytes) {
  nlohmann::ordered_json json{{"files", command.files},           {"tokens", stats.num_tokens},
                              {"documents", stats.num_documents}, {"longest_document", stats.longest_document},
                              {"max_id", stats.max_id},           {"ids", stats.num_ids}};
  json["most_frequent"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < std::min(stats.counts.size(), static_cast<std::size_t>(command.top)); ++i)
    json["most_frequent"].push_back({{"token", stats.counts[i].token}, {"count", stats.counts[i].count}});
  if (stats.entropy)
    json["entropy"] = {
        {"order", command.options.entropy_order}, {"nats", *stats.entropy}, {"per", bytes ? "byte" : "token"}};
  return json;
}

void print_stats(const TokenStats& stats, const InspectCommand& command, bool bytes) {
  std::cout << "tokens            " << stats.num_tokens << "\n"
            << "documents         " << stats.num_documents << "\n"
            << "longest document  " << stats.longest_document << "\n"
            << "largest id        " << stats.max_id << "\n"
            << "different ids     " << stats.num_ids << "\n";
  const std::size_t rows = std::min(stats.counts.size(), static_cast<std::size_t>(command.top));
  if (rows > 0) std::cout << "most frequent     token       count   share\n";
  for (std::size_t i = 0; i < rows; ++i) {
    const auto [token, count] = stats.counts[i];
    std::cout << std::setw(23) << token << std::setw(12) << count << std::setw(7) << std::fixed << std::setprecision(2)
              << 100.0 * static_cast<double>(count) / static_cast<double>(stats.num_tokens) << "%  "
              << byte_name(token, stats.max_id) << "\n";
  }
  if (stats.entropy)
    std::cout << entropy_name(command.options.entropy_order) << " entropy: " << std::fixed << std::setprecision(4)
              << *stats.entropy << " nats/" << (bytes ? "byte" : "token") << "\n";
}

int inspect(const InspectCommand& command) {
  std::vector<std::unique_ptr<TokenShard>> shards;
  for (const std::string& file : command.files) shards.push_back(open_token_shard(file));
  const TokenStats stats = inspect_tokens(shards, command.options);
  const bool bytes = stats.max_id <= kEndOfText;
  if (command.as_json) {
    std::cout << to_json(stats, command, bytes).dump(2) << "\n";
    return 0;
  }
  for (const auto& shard : shards)
    std::cout << shard->path().string() << ": " << shard->num_tokens() << " tokens, " << shard->format() << ", "
              << shard->token_type() << "\n";
  print_stats(stats, command, bytes);
  return 0;
}

void add_tokenize(CLI::App& data, Action& action) {
  CLI::App* command =
      data.add_subcommand("tokenize", "Turn texts into a token file (llm.c format), one token per byte");
  auto options = std::make_shared<TokenizeOptions>();
  command->add_option("texts", options->texts, "Text files; each is one document")->required()->type_name("TEXT");
  command->add_option("--out", options->out, "Token file to write")->required()->type_name("FILE.bin");
  auto* val_out = command->add_option("--val_out", options->val_out, "Token file for the held-out part");
  val_out->type_name("FILE.bin");
  command
      ->add_option("--val_fraction", options->val_fraction,
                   "Share of the text to hold out, as blocks spread evenly over it (default 0.05)")
      ->check(CLI::Range(0.0, 0.5))
      ->needs(val_out)
      ->type_name("F");
  command->callback([options, &action] { action = [options] { return tokenize(*options); }; });
}

void add_inspect(CLI::App& data, Action& action) {
  CLI::App* command = data.add_subcommand("inspect", "Say what is in token files: documents, ids, entropy");
  auto options = std::make_shared<InspectCommand>();
  command->add_option("files", options->files, "llm.c .bin, or Megatron .bin with .idx")->required()->type_name("FILE");
  command->add_option("--top", options->top, "How many of the most frequent tokens to list (default 10)")
      ->check(not_negative())
      ->type_name("N");
  command
      ->add_option("--entropy", options->options.entropy_order,
                   "Also the entropy of a token given the N - 1 before it, inside documents, all files together")
      ->check(CLI::Range(1, 8))
      ->type_name("N");
  command
      ->add_option("--end_of_text", options->options.end_of_text,
                   "Token that begins a document in llm.c files (default: a file's first token)")
      ->check(not_negative())
      ->type_name("ID");
  command->add_flag("--json", options->as_json, "Print one JSON document");
  command->callback([options, &action] { action = [options] { return inspect(*options); }; });
}

}  // namespace

void add_data(CLI::App& app, Action& action) {
  CLI::App* data = app.add_subcommand("data", "Prepare token files, and look into them");
  data->require_subcommand(1);
  add_tokenize(*data, action);
  add_inspect(*data, action);
}

}  // namespace weft::tools
