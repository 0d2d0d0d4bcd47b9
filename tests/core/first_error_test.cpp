#include "core/first_error.h"

#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/support/catch.h"

using weft::FirstError;

TEST_CASE("The first of several errors is thrown, and all is tried") {
  FirstError error;
  int num_tried = 0;
  CHECK(error.run([&] { ++num_tried; }));
  CHECK_NOTHROW(error.rethrow());
  for (const char* text : {"the first", "the second"})
    CHECK_FALSE(error.run([&] {
      ++num_tried;
      throw std::runtime_error(text);
    }));
  CHECK(error.run([&] { ++num_tried; }));
  CHECK(num_tried == 4);
  CHECK_THROWS_WITH(error.rethrow(), "the first");
  CHECK_THROWS_WITH(error.rethrow(), "the first");  // it is kept
}

TEST_CASE("Threads share what keeps their first error") {
  FirstError error;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] { error.run([] { throw std::runtime_error("of a thread"); }); });
  }
  CHECK_THROWS_WITH(error.rethrow(), "of a thread");
}
