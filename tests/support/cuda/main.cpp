// tests/support/cuda/main.cpp - the main of weft_test_cuda: the cases for GPUs, on the emulated one.
#define CATCH_CONFIG_RUNNER
#include "tests/support/catch.h"

int main(int argc, char* argv[]) {
  Catch::Session session;
  if (const int status = session.applyCommandLine(argc, argv); status != 0) return status;
  if (session.configData().testsOrTags.empty())
    session.configData().testsOrTags = {"*::cuda_f32,*::cuda_f64,*::cuda_bf16,*::on_cuda,*GPU*"};
  return session.run();
}
