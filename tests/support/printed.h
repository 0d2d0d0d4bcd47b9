// tests/support/printed.h - what a command prints.
#pragma once

#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace weft::test {

/// What `work` writes to std::cout.
template <class Work>
std::string printed(const Work& work) {
  std::ostringstream out;
  struct Redirect {
    explicit Redirect(std::streambuf* to) : before(std::cout.rdbuf(to)) {}
    ~Redirect() { std::cout.rdbuf(before); }
    std::streambuf* before;
  };
  {
    const Redirect redirect(out.rdbuf());
    work();
  }
  return out.str();
}

/// The same of a command that prints one JSON document.
template <class Work>
nlohmann::json printed_json(const Work& work) {
  return nlohmann::json::parse(printed(work));
}

}  // namespace weft::test
