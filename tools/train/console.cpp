#include "tools/train/console.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/atomic_file.h"
#include "core/error.h"
#include "tools/config/schedule_files.h"
#include "tools/launcher.h"
#include "tools/train/process.h"
#include "tools/train/replan_files.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using parallel::StepReport;

bool is_live(Progress progress, int rank) {
  if (rank != 0 || progress == Progress::kNever || progress == Progress::kSilent) return false;
  if (progress == Progress::kAlways) return true;
  return isatty(STDOUT_FILENO) == 1 && !find_launch();  // mpirun gives its ranks a terminal whether it has one or not
}

std::string memory_line(const scheduler::MemoryUse& use, std::int64_t validation) {
  std::string line = "memory per rank: " + human_bytes(double(use.total() + validation)) + " (";
  for (int c = 0; c < scheduler::kNumMemoryClasses; ++c)
    if (use.bytes[c] > 0)
      line += str(to_string(static_cast<scheduler::MemoryClass>(c)), " ", human_bytes(double(use.bytes[c])), ", ");
  if (validation > 0) line += "validation " + human_bytes(double(validation)) + ", ";
  return line.substr(0, line.size() - 2) + ")";
}

/// ", SP 2 heads x 2 ring" when ranks share sequences.
std::string sequence_text(const parallel::Mesh& mesh) {
  return mesh.sp_size() == 1 ? "" : str(", SP ", mesh.sequence_heads, " heads x ", mesh.sequence_ring, " ring");
}

}  // namespace

Console::Console(const parallel::RunConfig& config, int rank, Progress progress, int log_every)
    : config_(config),
      rank_(rank),
      silent_(progress == Progress::kSilent),
      live_(is_live(progress, rank)),
      log_every_(std::max(1, log_every)) {}

void Console::use_run_folder(const std::filesystem::path& run_dir, Origin origin) {
  run_dir_ = run_dir;
  origin_ = std::move(origin);
  const std::filesystem::path path = run_dir / "log.txt";
  log_.reset(std::fopen(path.c_str(), "ae"));
  if (!log_) throw Error(ErrorCode::kIo, str("cannot write ", path.string(), ": ", std::strerror(errno)));
}

void Console::print(const std::string& line) const {
  if (rank_ != 0) return;
  if (!silent_) {
    std::printf("%s%s\n", live_ ? "\r\x1b[K" : "", line.c_str());
    std::fflush(stdout);
  }
  if (log_) {
    std::fprintf(log_.get(), "%s\n", line.c_str());
    std::fflush(log_.get());
  }
}

void Console::on_start(const parallel::RunPlan& plan, std::int64_t first_step) {
  plan_ = plan;
  prediction_.start(plan);
  if (!run_dir_.empty()) {
    write_file(run_dir_ / "config.textproto", origin_.config);
    write_file(run_dir_ / "env.json", origin_.environment);
    std::error_code none;  // what is not there need not go
    fs::remove(run_dir_ / "profile.textproto", none);
    if (!origin_.profile.empty()) write_file(run_dir_ / "profile.textproto", origin_.profile);
    if (first_step == 1)  // of another run that had this folder
      for (const char* file : {"prediction.json", "trace.json", "traffic.json", "report.json", "report.html"})
        fs::remove(run_dir_ / file, none);
    start_replan_files(run_dir_, first_step);
    write_file(run_dir_ / "plan.textproto", plan_to_text(plan.plan));
  }
  first_step_ = first_step;
  start_ = std::chrono::steady_clock::now();
  const parallel::TrainConfig& t = config_.train;
  const parallel::ParameterCount count = parallel::count_parameters(config_.model);
  print(str("model: ", human_count(double(count.total)), " parameters, ", human_count(double(count.active)),
            " active per token; ", config_.model.layers, " layers, ", config_.model.moe.experts, " experts, top-",
            config_.model.moe.top_k));
  print(str("layout: ", counted(plan.mesh.world_size, "rank"), ", DP ", plan.mesh.dp_size(), ", EP ", plan.mesh.ep_size,
            " x ESP ", plan.mesh.esp_size, " x EDP ", plan.mesh.edp_size(), sequence_text(plan.mesh), ", ZeRO-1 ",
            config_.parallel.zero ? "on" : "off", "; ", t.global_batch, " x ", t.sequence_length, " tokens a step in ",
            t.global_batch / (plan.mesh.dp_size() * t.micro_batch), " micro-batches of ", t.micro_batch));
  print(memory_line(plan.memory, plan.validation_bytes));
  print(schedule_line());
}

std::string Console::schedule_line() const {
  return str("schedule: ", plan_.plan.policy, ", ", plan_.num_tasks, " tasks, ", fixed(plan_.predicted_ms, 1),
             " ms a step predicted from ", plan_.cost_source);
}

std::string Console::step_line(const StepReport& report) const {
  const parallel::StepResult& r = report.result;
  std::string line = str("step ", report.step, "/", config_.train.steps, " loss ", fixed(r.loss, 4));
  const double deviation = std::sqrt(std::max(0.0, loss_square_ - loss_mean_ * loss_mean_));
  if (num_steps_ > 10 && deviation > 0) {
    const double z = (r.loss - loss_mean_) / deviation;
    line += str(" (", z >= 0 ? "+" : "", fixed(z, 1), "σ)");
  }
  char text[96];
  std::snprintf(text, sizeof text, " gnorm %.3f lr %.2e %.0f ms ", r.gradient_norm, report.lr, report.step_ms);
  line +=
      text + human_count(report.tokens_per_second) + " tok/s " + fixed(report.model_tflops * 1e3, 1) + " GFLOP/s/rank";
  if (plan_.mesh.world_size > 1)
    line += " comm " + fixed(100 * report.exposed_comm_fraction, 0) + "% imb " + fixed(r.rank_imbalance, 2);
  if (config_.model.moe.capacity_factor > 0) line += " drop " + fixed(100 * r.drop_fraction, 1) + "%";
  line += " mem " + human_bytes(double(peak_memory_bytes()));
  const double left =
      total_ms_ / double(std::max<std::int64_t>(1, num_steps_)) / 1e3 * double(config_.train.steps - report.step);
  return line + " eta " + human_seconds(left);
}

void Console::on_step(const StepReport& report, const scheduler::Graph& graph, const scheduler::Timeline& timeline) {
  ++num_steps_;
  total_ms_ += report.step_ms;
  if (rank_ == 0) prediction_.add(report, graph, timeline);
  if (rank_ == 0 && report.step == trace_step_ && !run_dir_.empty()) {
    write_trace((run_dir_ / "trace.json").string(), plan_, {&graph, &timeline, report.step});
    print(str("step ", report.step, ": trace in ", (run_dir_ / "trace.json").string(), ", for ui.perfetto.dev"));
  }
  if (report.step == first_step_) {
    first_loss_ = loss_mean_ = report.result.loss;
    loss_square_ = loss_mean_ * loss_mean_;
  }
  last_loss_ = report.result.loss;
  if (rank_ == 0) {
    const bool printed =
        report.step == first_step_ || report.step == config_.train.steps || report.step % log_every_ == 0;
    if (printed)
      print(step_line(report));
    else if (live_) {
      std::printf("\r\x1b[K%s", step_line(report).c_str());
      std::fflush(stdout);
    }
  }
  constexpr double kKeep = 0.95;
  loss_mean_ = kKeep * loss_mean_ + (1 - kKeep) * report.result.loss;
  loss_square_ = kKeep * loss_square_ + (1 - kKeep) * report.result.loss * report.result.loss;
}

void Console::on_replan(const parallel::Replan& replan) {
  plan_ = replan.plan;
  prediction_.start(plan_);
  if (replan.changes) print(schedule_line());
  if (run_dir_.empty()) return;
  try {
    write_replan_files(run_dir_, replan, origin_.device, config_.train.dtype);
  } catch (const Error& e) {  // a full disk must not end a run that computes well
    on_warning(str("step ", replan.step, ": what replanning stood on is lost: ", e.message()));
  }
}

void Console::on_validation(std::int64_t step, double loss) {
  last_validation_ = loss;
  print(str("step ", step, " validation loss ", fixed(loss, 4)));
}

void Console::on_note(const std::string& text) { print(text); }

void Console::on_warning(const std::string& text) {
  if (rank_ != 0) return;
  std::fprintf(stderr, "%swarning: %s\n", live_ ? "\r\x1b[K" : "", text.c_str());
  if (log_) std::fprintf(log_.get(), "warning: %s\n", text.c_str());
}

void Console::summary(parallel::TrainOutcome outcome) const {
  if (rank_ != 0) return;
  if (num_steps_ == 0 && outcome == parallel::TrainOutcome::kStopped) {
    print(str("stopped before step ", first_step_, "; run folder: ", run_dir_.string()));
    return;
  }
  if (num_steps_ == 0) {
    print(str("nothing to do: the run in ", run_dir_.string(), " has all its ", config_.train.steps, " steps"));
    return;
  }
  print(str("trained ", num_steps_, " steps in ",
            human_seconds(std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count()), ": loss ",
            fixed(first_loss_, 4), " -> ", fixed(last_loss_, 4),
            last_validation_ >= 0 ? ", validation loss " + fixed(last_validation_, 4) : ""));
  print(str("predicted from ", plan_.cost_source, ":"));
  for (const std::string& line : prediction_.table()) print(line);
  if (!run_dir_.empty()) write_file(run_dir_ / "prediction.json", prediction_.to_json().dump(2) + "\n");
  print(str("peak memory: ", human_bytes(double(peak_memory_bytes())), " of the process, ",
            human_bytes(double(plan_.memory.total() + plan_.validation_bytes)), " planned for tensors"));
  print(str("run folder: ", run_dir_.string()));
}

}  // namespace weft::tools
