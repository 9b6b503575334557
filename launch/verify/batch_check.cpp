#include "launch/verify/batch_check.h"

#include "core/base/error.h"

namespace tessera::verify {
namespace {

// The positions of every row, one after another.
std::vector<std::int32_t> expected_of(std::span<const Sample> samples,
                                      std::span<const PositionRange> positions,
                                      const std::vector<std::int32_t> Sample::*member) {
  std::vector<std::int32_t> values;
  for (const Sample& sample : samples)
    for (const PositionRange& range : positions)
      for (std::int64_t p = range.begin; p < range.end; ++p)
        values.push_back((sample.*member)[static_cast<std::size_t>(p)]);
  return values;
}

std::string difference(const char* what, const Tensor& given, const std::vector<std::int32_t>& expected,
                       std::size_t rows) {
  std::vector<std::int32_t> values(given.defined() ? static_cast<std::size_t>(given.numel()) : 0);
  if (values.size() != expected.size())
    return fmt::format("it has {} {} instead of {}", values.size(), what, expected.size());
  if (!values.empty()) given.to_host(values.data());
  const std::size_t length = expected.size() / rows;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (values[i] != expected[i])
      return fmt::format("its {} differ from token {} of row {} on: {} instead of {}", what, i % length,
                         i / length, values[i], expected[i]);
  return "";
}

}  // namespace

std::string batch_fault(const Batch& batch, std::span<const Sample> samples, bool document_mask,
                        std::span<const PositionRange> positions) {
  const auto check = [&](const char* what, const Tensor& given,
                         const std::vector<std::int32_t> Sample::*member) {
    return difference(what, given, expected_of(samples, positions, member), samples.size());
  };
  std::string fault = check("tokens", batch.tokens, &Sample::tokens);
  if (fault.empty()) fault = check("positions", batch.positions, &Sample::positions);
  if (fault.empty() && document_mask) fault = check("document starts", batch.doc_start, &Sample::doc_start);
  if (fault.empty() && !document_mask && batch.doc_start.defined()) fault = "it masks documents";
  if (fault.empty()) fault = check("targets", batch.targets, &Sample::targets);
  return fault;
}

}  // namespace tessera::verify
