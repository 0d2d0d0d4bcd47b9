// tests/support/catch.h - whichever Catch2 is installed: version 2 has one header, version 3 several.
#pragma once

#if __has_include(<catch2/catch.hpp>)
#include <catch2/catch.hpp>
#else
#include <catch2/catch_all.hpp>
#endif
