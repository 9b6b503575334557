// How large buffers between ranks with experts must be for the tokens of a small model. Pure functions.
#pragma once

#include <optional>

#include "launch/verify/run.h"

namespace tessera::verify {

// The least expert_buffer with which all tokens find room: in all steps, and in the first.
struct TightBuffer {
  double factor = 0, first = 0;
  // What the fullest buffer of the first step holds, and of which layer it is, the first of several; and a
  // factor with which it lacks one row, absent where none does.
  std::string layer;
  std::int64_t rows = 0;
  std::optional<double> below;
};
// Of tokens that choose so. Absent where the layout deals no experts out in bounded buffers.
std::optional<TightBuffer> tight_buffer(const Subject& subject, const ParallelLayout& layout,
                                        const Choices& choices);

// Whether a layout whose buffers lack a row says so: on every rank, naming the layer and how many rows there
// are, and without moving a weight. "" if it does. `choices`: those that `tight` is of.
std::string overflow_fault(const Subject& subject, const ParallelLayout& layout, const TightBuffer& tight,
                           const Choices& choices, const Place& place);

}  // namespace tessera::verify
