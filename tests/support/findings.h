// tests/support/findings.h - what ranks find wrong, gathered without Catch2, whose assertions are not thread-safe.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace weft::test {

/// The findings of one rank. A rank goes on after one, so that its peers are not left waiting in a collective.
class Findings {
 public:
  template <class... Args>
  void expect(bool holds, const Args&... what) {
    ++num_checks_;
    if (!holds && texts_.size() < kMax) texts_.push_back(str(what...));
  }

  /// The spans are equal, element by element (==, so that a NaN never is).
  template <class T>
  void expect_equal(std::span<const T> got, std::span<const T> want, const std::string& what) {
    expect(got.size() == want.size(), what, ": ", got.size(), " elements, expected ", want.size());
    for (std::size_t i = 0; i < got.size() && i < want.size(); ++i) {
      if (got[i] == want[i]) continue;
      return expect(false, what, ": element ", i, " of ", want.size(), " is ", +got[i], ", expected ", +want[i]);
    }
    ++num_checks_;
  }

  /// `call` throws an Error with `code` whose message contains `text`.
  template <class Call>
  void expect_error(ErrorCode code, const std::string& text, const Call& call) {
    try {
      call();
    } catch (const Error& e) {
      expect(e.code() == code, "wrong code: ", e.what());
      expect(e.message().find(text) != std::string::npos, "no '", text, "' in: ", e.what());
      return;
    }
    expect(false, "nothing thrown, expected: ", text);
  }

  [[nodiscard]] const std::vector<std::string>& texts() const noexcept { return texts_; }
  [[nodiscard]] std::size_t num_checks() const noexcept { return num_checks_; }

 private:
  static constexpr std::size_t kMax = 20;
  std::vector<std::string> texts_;
  std::size_t num_checks_ = 0;
};

}  // namespace weft::test
