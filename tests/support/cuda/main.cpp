// tests/support/cuda/main.cpp - the main of weft_test_cuda: the cases for GPUs, on emulated ones.
#define CATCH_CONFIG_RUNNER
#include <iostream>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/cuda/machine.h"
#include "tests/support/nccl/hooks.h"

int main(int argc, char* argv[]) {
  weft::emulation::set_num_devices(8);
  Catch::Session session;
  if (const int status = session.applyCommandLine(argc, argv); status != 0) return status;
  if (session.configData().testsOrTags.empty())
    session.configData().testsOrTags = {"*::cuda_f32,*::cuda_f64,*::cuda_bf16,*::on_cuda,*GPU*,*NCCL*"};
  const int status = session.run();
  const std::vector<std::string> complaints = weft::emulation::nccl::take_complaints();
  for (const std::string& text : complaints) std::cerr << "misuse of NCCL: " << text << '\n';
  const int left = weft::emulation::nccl::num_communicators();
  if (left > 0) std::cerr << left << " communicators of NCCL were neither destroyed nor aborted\n";
  return status != 0 ? status : !complaints.empty() || left > 0;
}
