#include "parallel/step/update.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "comm/communicator.h"
#include "kernels/adamw.h"
#include "kernels/reduce.h"

namespace weft::parallel {
namespace {

comm::Communicator& replicas_of(const MeshComms& comms, const Bucket& bucket) {
  return bucket.kind == Bucket::Kind::kExperts ? comms.edp() : comms.world();
}

/// *out = the squares of all gradients that this rank owns. parts: [buckets], room.
template <class T>
void owned_squares(const ParameterStore<T>& store, Stream& stream, double* parts, double* out) {
  std::int64_t count = 0;
  for (const Bucket& bucket : store.table().buckets())
    kernels::sum_squares<Wide<T>>(stream, parts + count++,
                                  store.gradients() + bucket.offset + bucket.owner_begin(bucket.replica_rank),
                                  bucket.owner_count(bucket.replica_rank));
  kernels::sum_rows<double>(stream, out, Matrix<const double>(parts, count, 1));
}

}  // namespace

template <class T>
void gather_weights(const ParameterStore<T>& store, int b, const MeshComms& comms, Stream& stream) {
  const Bucket& bucket = store.table().buckets()[static_cast<std::size_t>(b)];
  std::vector<std::int64_t> counts;
  for (int r = 0; r < bucket.num_replicas; ++r) counts.push_back(bucket.owner_count(r));
  T* weights = store.weights() + bucket.offset;
  replicas_of(comms, bucket)
      .all_gather_v(
          comm::as_buffer(weights + bucket.owner_begin(bucket.replica_rank), bucket.owner_count(bucket.replica_rank)),
          comm::as_buffer(weights, bucket.count), counts, stream);
}

template <class T>
scheduler::ResourceSet Update<T>::links(const Bucket& bucket) const {
  const bool experts = bucket.kind == Bucket::Kind::kExperts;
  return group_links(ctx_.mesh, bucket.num_replicas, experts ? ctx_.mesh.ep_size * ctx_.mesh.esp_size : 1);
}

template <class T>
void Update<T>::emit_weight_gather() const {
  if (!ctx_.spec.sharded_optimizer) return;
  const Runtime<T>* runtime = ctx_.runtime;
  for (int b = 0; b < static_cast<int>(ctx_.table.buckets().size()); ++b) {
    const Bucket& bucket = ctx_.table.buckets()[static_cast<std::size_t>(b)];
    if (bucket.num_replicas == 1) continue;
    const double wire = double(bucket.count) * sizeof(T) * (bucket.num_replicas - 1) / bucket.num_replicas;
    ctx_.out.task(comm_task(Stage::kParameterGather, Phase::kForward, "", bucket.layer, links(bucket),
                            WorkKind::kAllGather, wire),
                  {}, {ctx_.weights(b)},
                  [=](TaskContext& c) { gather_weights<T>(*runtime->store, b, *runtime->comms, c.stream); });
  }
}

/// The pieces of all owners, packed behind each other, so that rank r's share is block r. Then reduced to the owners.
template <class T>
void Update<T>::emit_reduce_scatter(int b, const GradientPiece& piece) const {
  const Runtime<T>* runtime = ctx_.runtime;
  const Bucket& bucket = ctx_.table.buckets()[static_cast<std::size_t>(b)];
  const auto begin_of = [piece](const Bucket& of, int rank) { return of.owner_cut(rank, piece.begin); };
  const auto count_of = [piece](const Bucket& of, int rank) {
    return of.owner_cut(rank, piece.end) - of.owner_cut(rank, piece.begin);
  };
  std::int64_t total = 0;
  for (int r = 0; r < bucket.num_replicas; ++r) total += count_of(bucket, r);
  const std::int64_t own = count_of(bucket, bucket.replica_rank);
  const BufferId staging = ctx_.template buffer<Wide<T>>("gradient staging", total + own, MemoryClass::kCommunication);
  BufferList writes = ctx_.all_gradients(b);
  writes.add(staging);
  const double wire = double(total) * sizeof(Wide<T>) * (bucket.num_replicas - 1) / bucket.num_replicas;
  TaskSpec spec =
      comm_task(Stage::kGradReduce, Phase::kBackward, "", bucket.layer, links(bucket), WorkKind::kReduceScatter, wire);
  spec.chunk = static_cast<std::int16_t>(piece.index);
  ctx_.out.task(spec, {}, writes, [=, bucket = bucket](TaskContext& c) {
    Wide<T>* gradients = runtime->store->gradients() + bucket.offset;
    Wide<T>* packed = c.arena.get<Wide<T>>(staging);
    std::vector<std::int64_t> counts;
    std::int64_t at = 0;
    for (int r = 0; r < bucket.num_replicas; ++r) {
      counts.push_back(count_of(bucket, r));
      kernels::copy<Wide<T>>(c.stream, packed + at, gradients + begin_of(bucket, r), counts.back());
      at += counts.back();
    }
    Wide<T>* reduced = packed + at;
    replicas_of(*runtime->comms, bucket)
        .reduce_scatter_v(comm::as_buffer(packed, at), comm::as_buffer(reduced, own), counts, comm::ReduceOp::kSum,
                          c.stream);
    kernels::copy<Wide<T>>(c.stream, gradients + begin_of(bucket, bucket.replica_rank), reduced, own);
  });
}

template <class T>
void Update<T>::emit_all_reduce(int b, const GradientPiece& piece) const {
  const Runtime<T>* runtime = ctx_.runtime;
  const Bucket& bucket = ctx_.table.buckets()[static_cast<std::size_t>(b)];
  const std::int64_t begin = std::llround(double(bucket.count) * piece.begin);
  const std::int64_t count = std::llround(double(bucket.count) * piece.end) - begin;
  const double wire = 2.0 * double(count) * sizeof(Wide<T>) * (bucket.num_replicas - 1) / bucket.num_replicas;
  TaskSpec spec =
      comm_task(Stage::kGradReduce, Phase::kBackward, "", bucket.layer, links(bucket), WorkKind::kAllReduce, wire);
  spec.chunk = static_cast<std::int16_t>(piece.index);
  ctx_.out.task(spec, {}, ctx_.all_gradients(b), [=, bucket = bucket](TaskContext& c) {
    Wide<T>* gradients = runtime->store->gradients() + bucket.offset + begin;
    replicas_of(*runtime->comms, bucket)
        .all_reduce(comm::as_buffer(gradients, count), comm::as_buffer(gradients, count), comm::ReduceOp::kSum,
                    c.stream);
  });
}

template <class T>
void Update<T>::emit_gradient_reduction() const {
  for (int b = static_cast<int>(ctx_.table.buckets().size()) - 1; b >= 0; --b) {  // the order in which backward ends
    const Bucket& bucket = ctx_.table.buckets()[static_cast<std::size_t>(b)];
    if (bucket.num_replicas == 1) continue;
    const std::vector<scheduler::LayerShape>& layers = ctx_.shape.layers;
    const auto at = static_cast<std::size_t>(bucket.kind == Bucket::Kind::kEmbedding ? 0
                                             : bucket.kind == Bucket::Kind::kHead ? static_cast<int>(layers.size()) - 1
                                                                                  : bucket.layer);
    const std::vector<double> cuts = scheduler::gradient_cuts(layers[at]);  // the ends are cut as the layer beside them
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const GradientPiece piece{static_cast<int>(i), cuts[i], cuts[i + 1]};
      if (ctx_.spec.sharded_optimizer)
        emit_reduce_scatter(b, piece);
      else
        emit_all_reduce(b, piece);
    }
  }
}

template <class T>
void Update<T>::emit_norm(BufferId norm) const {
  const Runtime<T>* runtime = ctx_.runtime;
  BufferList reads{};
  for (int b = 0; b < static_cast<int>(ctx_.table.buckets().size()); ++b) {
    const BufferList gradients = ctx_.all_gradients(b);
    for (const BufferId id : gradients.span()) reads.add(id);
  }
  const double bytes = double(ctx_.table.owned_count()) * sizeof(Wide<T>);
  TaskSpec spec;
  spec.stage = Stage::kGradNorm;
  spec.phase = Phase::kUpdate;
  spec.work = {WorkKind::kMemory, bytes};
  if (ctx_.mesh.world_size > 1) {  // alone, it computes and sends nothing
    spec.resources = group_links(ctx_.mesh, ctx_.mesh.world_size, 1);
    spec.resources.add(Resource::kCompute);
  }
  const auto buckets = static_cast<std::int64_t>(ctx_.table.buckets().size());
  const BufferId parts = ctx_.template buffer<double>("squares of buckets", buckets, MemoryClass::kWorkspace);
  ctx_.out.task(spec, reads, {norm, parts}, [=, rank = ctx_.mesh.world_rank](TaskContext& c) {
    const StepState& state = *runtime->state;
    const StepStatistics& statistics = state.statistics;
    double *const loss = statistics.sums(), *const squares = loss + 1;
    statistics.pack(c.stream, rank);
    owned_squares(*runtime->store, c.stream, c.arena.get<double>(parts), squares);
    sum_in_place(runtime->comms->world(), comm::as_buffer(loss, statistics.num_sums()), c.stream);
    kernels::clip_factor(c.stream, statistics.clip_factor(), loss, squares, state.clip_norm);
  });
}

namespace {

/// Elements that one launch updates: those of parameters that lie behind each other and decay alike.
struct AdamWRun {
  UpdateRun run;
  bool decay;
};

template <class T>
std::vector<AdamWRun> adamw_runs(const ParameterStore<T>& store, int bucket) {
  std::vector<AdamWRun> out;
  for (const UpdateRun& run : update_runs(store, bucket)) {
    const bool decay = run.parameter->spec.decay;
    if (!out.empty() && out.back().decay == decay && out.back().run.end == run.begin)
      out.back().run.end = run.end;
    else
      out.push_back({run, decay});
  }
  return out;
}

}  // namespace

template <class T>
void Update<T>::emit_adamw(int b, BufferId norm) const {
  const Runtime<T>* runtime = ctx_.runtime;
  const Bucket& bucket = ctx_.table.buckets()[static_cast<std::size_t>(b)];
  const std::int64_t count = ctx_.spec.sharded_optimizer ? bucket.owner_count(bucket.replica_rank) : bucket.count;
  const BufferId states =
      ctx_.out.buffer({"optimizer state", MemoryClass::kOptimizer,
                       kNumOptimizerStates<T> * count * static_cast<std::int64_t>(sizeof(Wide<T>)), false, true});
  BufferList reads = ctx_.all_gradients(b);
  reads.add(norm);
  TaskSpec spec;
  spec.stage = Stage::kOptimizer;
  spec.phase = Phase::kUpdate;
  spec.layer = static_cast<std::int16_t>(bucket.layer);
  // read and written: moments and weights; read: gradients; written: weights that have a master
  const double stored = std::is_same_v<T, Wide<T>> ? 0.0 : sizeof(T);
  spec.work = {WorkKind::kMemory, double(count) * (7.0 * sizeof(Wide<T>) + stored)};
  ctx_.out.task(
      spec, reads, {states, ctx_.weights(b)},
      [=, runs = runtime != nullptr ? adamw_runs(*runtime->store, b) : std::vector<AdamWRun>{}](TaskContext& c) {
        const StepState& state = *runtime->state;
        const ParameterStore<T>& store = *runtime->store;
        for (const auto& [run, decay] : runs)
          kernels::adamw<T>(c.stream, store.weights() + run.begin, store.state_at(run.state),
                            store.gradients() + run.begin, run.end - run.begin, state.statistics.clip_factor(),
                            state.scalars.adamw(decay));
      });
}

template <class T>
void Update<T>::emit_norm_and_update() const {
  const BufferId norm = ctx_.out.buffer({"gradient norm", MemoryClass::kWorkspace, sizeof(double), false, true});
  emit_norm(norm);
  if (ctx_.spec.mode != StepMode::kTrain) return;
  for (int b = 0; b < static_cast<int>(ctx_.table.buckets().size()); ++b) emit_adamw(b, norm);
}

template void gather_weights(const ParameterStore<float>&, int, const MeshComms&, Stream&);
template void gather_weights(const ParameterStore<double>&, int, const MeshComms&, Stream&);
template void gather_weights(const ParameterStore<BF16>&, int, const MeshComms&, Stream&);
template class Update<float>;
template class Update<double>;
template class Update<BF16>;

}  // namespace weft::parallel
