// Which kernel candidates a run asks for: those that its config names, and those that its checkpoint was made
// with. Pure functions of the slots that this build has; any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "launch/config/config.h"

namespace tessera {

// Throws Error (usage), at the place of the key, for a slot of `kernels` that this build does not have or a
// candidate that the slot does not have on train.device.
void check_kernels(const Config& config);

// The candidates that a resumed run wishes for, slot to name: the config's, and of those it was `saved` with
// on `saved_on` what is not the default anyway. What cannot be kept is left out: `changes` gets a line for
// each reason why bits may differ.
std::map<std::string, std::string> resumed_kernels(const Config& config,
                                                   const std::map<std::string, std::string>& saved,
                                                   DeviceKind saved_on, std::vector<std::string>& changes);

}  // namespace tessera
