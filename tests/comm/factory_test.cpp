#include "comm/factory.h"

#include "tests/support/catch.h"

namespace weft::test {
namespace {

using comm::Backend;

TEST_CASE("without a launcher the world is this process", "[comm]") {
  const auto world = comm::make_world();
  CHECK(world->size() == 1);
  CHECK(world->rank() == 0);
  const auto stream = make_inline_stream();
  std::int32_t x = 5;
  world->all_reduce(comm::as_buffer(&x, 1), comm::as_buffer(&x, 1), comm::ReduceOp::kSum, *stream);
  CHECK(x == 5);
  CHECK(comm::make_world(Backend::kLocal, std::chrono::milliseconds(0))->size() == 1);
}

}  // namespace
}  // namespace weft::test
