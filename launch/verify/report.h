// What `verify` prints about a comparison.
#pragma once

#include <string>

#include "launch/verify/verify.h"

namespace tessera::verify {

// What is kept of the config, a table of tensor groups, remarks, and a last line that says yes or no.
std::string report(const Verdict& verdict);

// The verdict alone: "equal bits", "within rounding (4.1e-07)", or the fault.
std::string verdict(const Comparison& comparison);
std::string verdict(const Verdict& verdict);

}  // namespace tessera::verify
