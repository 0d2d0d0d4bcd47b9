// tools/doctor/gpus.cpp - GPUs, links between them, and CUDA's libraries.
#include "comm/for_device.h"
#include "core/error.h"
#include "core/gpu_info.h"
#include "kernels/blas.h"
#include "tools/build_info.h"
#include "tools/doctor/checks.h"

namespace weft::tools {
namespace {

std::string capability_text(int capability) { return str(capability / 10, ".", capability % 10); }

void check_each(int num_gpus, Findings& findings) {
  constexpr int kLeastCapability = 80;
  for (int i = 0; i < num_gpus; ++i) {
    const std::string what = str("GPU ", i);
    try {
      const GpuInfo gpu = gpu_info({DeviceKind::kCuda, i});
      const std::string found = str(gpu.name, ", ", bytes_text(static_cast<double>(gpu.total_bytes)), ", ",
                                    bytes_text(static_cast<double>(gpu.free_bytes)), " of it free, ",
                                    gpu.num_multiprocessors, " multiprocessors, compute capability ",
                                    capability_text(gpu.compute_capability), ", PCI ", gpu.pci_address);
      if (gpu.compute_capability < kLeastCapability)
        findings.warn(what, found, "builds are for compute capability 9.0 unless WEFT_CUDA_ARCHITECTURES says else");
      else if (gpu.free_bytes < gpu.total_bytes / 2)
        findings.warn(what, found, "another process holds most of its memory: nvidia-smi names it");
      else
        findings.ok(what, found);
    } catch (const Error& e) {
      findings.fail(what, e.message(),
                    "nvidia-smi may say more; a GPU that is lost comes back with a reset or a reboot");
    }
  }
}

/// "GPU 0: 1 NVLink, 2 PCIe, 3 none".
void check_peers(int num_gpus, Findings& findings) {
  for (int a = 0; a < num_gpus; ++a) {
    std::string found;
    bool through_host = false;
    for (int b = 0; b < num_gpus; ++b) {
      if (a == b) continue;
      const PeerLink link = peer_link({DeviceKind::kCuda, a}, {DeviceKind::kCuda, b});
      found += str(found.empty() ? "" : ", ", b,
                   link == PeerLink::kNvlink ? " NVLink"
                   : link == PeerLink::kPcie ? " PCIe"
                                             : " none");
      through_host = through_host || link == PeerLink::kNone;
    }
    const std::string what = str("GPU ", a, " reaches");
    if (through_host)
      findings.warn(what, found, "copies between those go through the host: check IOMMU (off, or passthrough) and ACS");
    else
      findings.ok(what, found);
  }
}

void check_libraries(bool have_gpu, Findings& findings) {
  const auto library = [&](const char* name, const std::string& problem, const std::string& version,
                           const char* advice) {
    if (problem.empty())
      findings.ok(name, version);
    else if (have_gpu)
      findings.warn(name, problem, advice);
    else
      findings.ok(name, problem + "; not needed without a GPU");
  };
  const std::string no_blas = kernels::why_no_blas(DeviceKind::kCuda);
  library("cuBLAS", no_blas, "found",
          "products on the GPU need it: install it, and put its folder into LD_LIBRARY_PATH");
  const std::string no_nccl = comm::why_no_nccl();
  library("NCCL", no_nccl, no_nccl.empty() ? comm::nccl_version() : "",
          "without it GPUs exchange data through the host: install it, and put its folder into LD_LIBRARY_PATH");
}

}  // namespace

void check_gpus(Findings& findings) {
  if (!build_info().cuda) {
    findings.ok("GPUs", "this build computes on the CPU");
    return;
  }
  const int num_gpus = num_devices(DeviceKind::kCuda);
  const CudaVersions versions = cuda_versions();
  if (num_gpus == 0)
    findings.ok("GPUs", why_unavailable(DeviceKind::kCuda));
  else
    findings.ok("CUDA", str("runtime ", versions.runtime, ", driver for up to ", versions.driver));
  check_each(num_gpus, findings);
  check_peers(num_gpus > 1 ? num_gpus : 0, findings);
  check_libraries(num_gpus > 0, findings);
}

}  // namespace weft::tools
