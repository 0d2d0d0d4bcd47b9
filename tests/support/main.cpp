// tests/support/main.cpp - the main of every test binary.
#define CATCH_CONFIG_RUNNER
#include "tests/support/catch.h"

int main(int argc, char* argv[]) { return Catch::Session().run(argc, argv); }
