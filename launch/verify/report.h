// What `verify` prints about a comparison.
#pragma once

#include <string>

#include "launch/verify/compare.h"

namespace tessera::verify {

// A table of tensor groups, remarks, and a last line that says yes or no.
std::string report(const Subject& subject, const ParallelLayout& layout, const Comparison& comparison);

// The verdict alone: "equal bits", "within rounding (4.1e-07)", or the fault.
std::string verdict(const Comparison& comparison);

}  // namespace tessera::verify
