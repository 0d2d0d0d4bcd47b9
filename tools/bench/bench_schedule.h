// tools/bench/bench_schedule.h - weft bench simulate, weft bench executors, weft bench plan
#pragma once

namespace weft::tools {

/// Time to simulate made-up steps of 10k, 100k, 1M tasks, with and without contention: what a search pays, and that it
/// grows in proportion. Returns the exit status.
int bench_simulate(bool as_json);

/// Time that each executor adds to a task: `num_tasks` empty tasks over three streams, in chains of 1 (each task waits
/// for another stream) and of 4 at a time. The median of `runs` runs. Returns the exit status.
int bench_executors(int num_tasks, int runs, bool as_json);

/// Time to plan steps of 8 to 64 layers with 8 micro-batches: emission, price of one plan, search, bound, and plans
/// priced per second. Returns the exit status.
int bench_plan(bool as_json);

}  // namespace weft::tools
