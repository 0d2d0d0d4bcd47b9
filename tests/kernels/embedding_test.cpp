#include "kernels/embedding.h"

#include "tests/kernels/device_kernels.h"

using namespace weft;
using namespace weft::kernels;
using weft::test::difference;
using weft::test::error_of;
using weft::test::Grid;
using weft::test::inline_stream;
using weft::test::Random;
using weft::test::says;
namespace reference = weft::reference;

TEMPLATE_TEST_CASE("embeddings and their gradients equal their definitions", "[embedding]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Random random(seed);
    const std::int64_t tokens = random.pick({0, 1, 13, 60}), vocab = random.pick({1, 7, 100}),
                       width = random.pick({1, 16, 33});
    const std::int64_t positions = random.pick({1, 20});
    const bool add = random.below(2) != 0;
    INFO("seed " << seed << ": T " << tokens << " V " << vocab << " M " << width << " add " << add);
    const auto table = Grid<T>::normal(random, vocab, width, random.below(3)),
               places = Grid<T>::normal(random, positions, width, 1);
    const auto token = random.integers(tokens, 0, vocab), position = random.integers(tokens, 0, positions);
    const reference::Dense rtable(table.view()), rplaces(places.view());
    Grid<T> x(tokens, width, 1);
    embedding_forward<T>(device, x.view(), table.view(), token.data(), {}, nullptr);
    CHECK(difference(x, reference::embedding(rtable, token, {}, {}), 1) == "");
    embedding_forward<T>(device, x.view(), table.view(), token.data(), places.view(), position.data());
    CHECK(difference(x, reference::embedding(rtable, token, rplaces, position), 2) == "");

    const auto dx = Grid<T>::normal(random, tokens, width, 2);
    auto d_table = add ? Grid<Wide<T>>::normal(random, vocab, width, 1) : Grid<Wide<T>>(vocab, width, 1);
    const auto want = reference::embedding_backward(
        add ? reference::Dense(d_table.view()) : reference::Dense(vocab, width), token, reference::Dense(dx.view()));
    embedding_backward<T>(device, d_table.view(), token.data(), dx.view(),
                          add ? Accumulate::kAdd : Accumulate::kOverwrite);
    CHECK(difference(d_table, want, tokens + 1) == "");
  }
}

TEMPLATE_TEST_CASE("an embedding's gradient adds its rows in their order, to the bit", "[embedding]",
                   WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (const std::int64_t tokens : {1, 2, 100, 1023, 1024, 1025, 5000}) {
    Random random(static_cast<std::uint64_t>(tokens));
    const auto id = random.integers(tokens, 0, 7);
    const auto dx = Grid<T>::normal(random, tokens, 3);
    Grid<Wide<T>> d_table(7, 3), want(7, 3);
    for (std::int64_t i = 0; i < 21; ++i) want.view().data[i] = 0;
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t j = 0; j < 3; ++j) want(id[static_cast<std::size_t>(t)], j) += dx(t, j);
    embedding_backward<T>(device, d_table.view(), id.data(), dx.view(), Accumulate::kOverwrite);
    INFO(tokens << " tokens");
    CHECK(reference::Dense(d_table.view()).data == reference::Dense(want.view()).data);
  }
}

TEST_CASE("embeddings pass the gradient check", "[embedding][gradcheck]") {
  Random random(2);
  auto table = Grid<double>::normal(random, 5, 3), places = Grid<double>::normal(random, 4, 3);
  const auto dx = Grid<double>::normal(random, 6, 3);
  const reference::Ints token = {4, 0, 4, 1, 1, 1}, position = {0, 1, 2, 3, 0, 1};
  Grid<double> d_table(5, 3), d_places(4, 3);
  const auto loss = [&] {
    Grid<double> x(6, 3);
    embedding_forward<double>(inline_stream(), x.view(), table.view(), token.data(), places.view(), position.data());
    return test::dot({x.view().data, 18}, {dx.view().data, 18});
  };
  embedding_backward<double>(inline_stream(), d_table.view(), token.data(), dx.view(), Accumulate::kOverwrite);
  embedding_backward<double>(inline_stream(), d_places.view(), position.data(), dx.view(), Accumulate::kOverwrite);
  CHECK(test::gradient_difference({table.view().data, 15}, {d_table.view().data, 15}, loss) == "");
  CHECK(test::gradient_difference({places.view().data, 12}, {d_places.view().data, 12}, loss) == "");
}

TEST_CASE("embeddings refuse what does not fit", "[embedding]") {
  Stream& s = inline_stream();
  Grid<float> x(3, 4), table(5, 4), places(2, 4), wrong(5, 3);
  const reference::Ints token = {0, 4, 1}, low = {0, -1, 1}, high = {0, 5, 1}, position = {0, 1, 1};
  const auto forward = [&](Matrix<float> out, Grid<float>& t, const std::int32_t* id, Matrix<const float> p,
                           const std::int32_t* at) {
    return error_of([&] { embedding_forward<float>(s, out, t.view(), id, p, at); });
  };
  const char* name = "embedding_forward";
  CHECK_THAT(forward({nullptr, 3, 4}, table, token.data(), {}, nullptr), says(name, "x is null"));
  CHECK_THAT(forward(x.view(), wrong, token.data(), {}, nullptr), says(name, "token_table is"));
  CHECK_THAT(forward(x.view(), table, nullptr, {}, nullptr), says(name, "token is null"));
  CHECK_THAT(forward(x.view(), table, token.data(), wrong.view(), position.data()), says(name, "position_table is"));
  CHECK_THAT(forward(x.view(), table, token.data(), places.view(), nullptr), says(name, "position is null"));
  CHECK_THAT(forward(x.view(), table, low.data(), {}, nullptr), says(name, "token[1] = -1"));
  CHECK_THAT(forward(x.view(), table, high.data(), {}, nullptr), says(name, "token[1] = 5, the table has 5"));
  CHECK_THAT(forward(x.view(), table, token.data(), places.view(), high.data()), says(name, "position[1] = 5"));
  CHECK_THAT(forward(x.view(), table, token.data(), places.view(), low.data()), says(name, "position[1] = -1"));
  const auto backward = [&](Grid<float>& t, const std::int32_t* id, Matrix<const float> dx) {
    return error_of([&] { embedding_backward<float>(s, t.view(), id, dx, Accumulate::kAdd); });
  };
  name = "embedding_backward";
  CHECK_THAT(backward(wrong, token.data(), x.view()), says(name, "d_table is"));
  CHECK_THAT(backward(table, nullptr, x.view()), says(name, "id is null"));
  CHECK_THAT(backward(table, token.data(), {nullptr, 3, 4}), says(name, "dx is null"));
  CHECK_THAT(backward(table, high.data(), x.view()), says(name, "id[1] = 5"));
}
