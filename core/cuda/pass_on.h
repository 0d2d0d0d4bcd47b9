// core/cuda/pass_on.h - for files that define the functions of a CUDA library and pass every call on to it.
#pragma once

#include "core/cuda/library.h"

#define WEFT_TEXT(x) #x
#define WEFT_TEXT_OF(macro) \
  WEFT_TEXT(macro)  // headers rename functions: cublasCreate is cublasCreate_v2 in the library

/// The body of `function`: calls the function of that name in library(). Looks it up once.
#define WEFT_PASS_ON(function, ...)                                                            \
  {                                                                                            \
    static auto* const in_library = library().get<decltype(function)>(WEFT_TEXT_OF(function)); \
    return in_library(__VA_ARGS__);                                                            \
  }
