#include "core/cuda/library.h"

#include <dlfcn.h>

#include "core/error.h"

namespace weft::cuda {

Library::Library(const char* name, const char* what) : name_(name), library_(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
  if (library_ == nullptr)
    throw Error(ErrorCode::kUnavailable, str(what, " cannot be loaded: ", dlerror()),
                str("install ", what, ", and put the folder of ", name, " into LD_LIBRARY_PATH"));
}

void* Library::address(const char* function) const {
  if (void* found = dlsym(library_, function)) return found;
  throw Error(ErrorCode::kUnavailable, str(name_, " has no ", function), "it is older than what Weft was built with");
}

}  // namespace weft::cuda
