// tests/support/cuda/cuda.h - see cuda_runtime_api.h
#pragma once

#include "tests/support/cuda/cuda_runtime_api.h"
