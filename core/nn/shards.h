// How a block's parameters are cut over ranks: the specs of fused storage from the logical tensors it holds.
//
// Places are plain numbers, one rank's by default, so that blocks are built the same way on one rank and on
// a part of many. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "core/autograd/parameter.h"

namespace tessera {

// A rank's place on an axis that cuts parameters.
struct ShardPlace {
  int index = 0, count = 1;
  bool operator==(const ShardPlace&) const = default;
};

// On all of them: `tensor` cuts dense parameters, `expert` deals out experts, `expert_tensor` cuts each.
struct ModelPlace {
  ShardPlace tensor, expert, expert_tensor;
};

// Whether ranks may hold a unit alike, where there are fewer units than ranks: right only where what each
// makes of it is not summed over all (KV heads, of which each rank has its own queries; channels would count
// twice).
enum class WhenFew : bool { refuse, replicate };

// A logical tensor of a fused one: its rows, and how many of them stay together (a head's).
struct Part {
  std::string name;
  std::int64_t rows = 0;
  std::int64_t unit = 1;
  WhenFew when_few = WhenFew::refuse;
};

// The units [begin, end) of `units` that a place holds: an even share, or as even as can be; where there are
// fewer units than ranks, one unit that `replicas` neighbouring ranks hold alike. Asserts that this is
// allowed and the ranks are then a multiple of the units; plan_layout refuses what would not be.
struct UnitRange {
  std::int64_t begin = 0, end = 0;
  int replicas = 1;
};
UnitRange units_of(std::int64_t units, ShardPlace place, WhenFew when_few = WhenFew::refuse);

// What parameters of one block have in common.
struct ShardContext {
  std::string module;  // names are module.part + suffix
  Initializer initializer;
  Layout::Ranks ranks = Layout::Ranks::dense;
  ShardPlace place;
};

// `columns` 0: vectors, which never decay. The fused tensor is called module.storage.
ParameterSpec cut_rows(const ShardContext& context, const std::string& storage, const std::string& suffix,
                       const std::vector<Part>& parts, std::int64_t columns);
// A matrix [rows, columns of this place], columns in units.
ParameterSpec cut_columns(const ShardContext& context, const std::string& part, const std::string& suffix,
                          std::int64_t rows, std::int64_t columns, std::int64_t unit);
// Every rank holds all of it.
ParameterSpec uncut(const ShardContext& context, const std::string& part, const std::string& suffix,
                    std::int64_t rows, std::int64_t columns = 0);

}  // namespace tessera
