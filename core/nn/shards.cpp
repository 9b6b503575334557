#include "core/nn/shards.h"
#include "core/base/mutant.h"

#include <cassert>

namespace tessera {
namespace {

Shape matrix_or_vector(std::int64_t rows, std::int64_t columns) {
  return columns == 0 ? Shape{rows} : Shape{rows, columns};
}

}  // namespace

UnitRange units_of(std::int64_t units, ShardPlace place, [[maybe_unused]] WhenFew when_few) {
  if (units >= place.count)
    return {units * place.index / place.count, units * (place.index + 1) / place.count};
  assert(when_few == WhenFew::replicate && place.count % units == 0);
  const auto replicas = static_cast<int>(place.count / units);
  const std::int64_t unit = mutant("kv_head_copied_wrongly") ? place.index % units : place.index / replicas;
  return {unit, unit + 1, replicas};
}

ParameterSpec cut_rows(const ShardContext& context, const std::string& storage, const std::string& suffix,
                       const std::vector<Part>& parts, std::int64_t columns) {
  ParameterSpec spec;
  spec.name = context.module + "." + storage + suffix;
  std::int64_t rows = 0;
  for (const Part& part : parts) {
    const UnitRange mine = units_of(part.rows / part.unit, context.place, part.when_few);
    Segment segment{context.module + "." + part.name + suffix, rows, (mine.end - mine.begin) * part.unit,
                    matrix_or_vector(part.rows, columns)};
    segment.first_row = mine.begin * part.unit;
    if (mutant("shard_off_by_one") && segment.first_row > 0) --segment.first_row;
    segment.replicas = mine.replicas;
    rows += segment.rows;
    spec.segments.push_back(std::move(segment));
  }
  spec.shape = matrix_or_vector(rows, columns);
  spec.initializer = context.initializer;
  spec.decays = columns != 0;
  spec.layout = {context.ranks, Layout::Cut::rows};
  return spec;
}

ParameterSpec cut_columns(const ShardContext& context, const std::string& part, const std::string& suffix,
                          std::int64_t rows, std::int64_t columns, std::int64_t unit) {
  const UnitRange mine = units_of(columns / unit, context.place);
  ParameterSpec spec = uncut(context, part, suffix, rows, (mine.end - mine.begin) * unit);
  spec.segments[0].global = Shape{rows, columns};
  spec.segments[0].first_column = mine.begin * unit;
  spec.layout.cut = Layout::Cut::columns;
  return spec;
}

ParameterSpec uncut(const ShardContext& context, const std::string& part, const std::string& suffix,
                    std::int64_t rows, std::int64_t columns) {
  const Shape shape = matrix_or_vector(rows, columns);
  std::string name = context.module + "." + part + suffix;
  return {name, shape, {{name, 0, rows, shape}}, context.initializer, columns != 0, {context.ranks}};
}

}  // namespace tessera
