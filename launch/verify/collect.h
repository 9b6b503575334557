// Puts together, from all ranks' parts, what a run records. Internal to launch/verify; any rank's thread may
// call a Collector, the rest belongs to one.
#pragma once

#include <mutex>
#include <set>

#include "core/nn/moe.h"
#include "launch/verify/run.h"

namespace tessera::verify {

// Where a rank's tokens lie in the whole microbatch.
struct TokenMap {
  TokenMap(const BatchShape& batch, const std::vector<PositionRange>& positions, const Mesh& mesh);
  std::int64_t microbatch = 0;  // of the run, now under way
  std::int64_t first = 0;       // of this rank's tokens between blocks, among those of its positions
  std::int64_t total = 0;       // tokens of a whole microbatch
  // The place in the whole microbatch of token t of this rank's positions.
  std::int64_t whole(std::int64_t t) const;

 private:
  std::int64_t seq_len_;
  std::vector<std::int64_t> positions_;
};

class Collector {
 public:
  explicit Collector(const Subject& subject) : subject_(subject) {}
  // A part of a tensor.
  void add(Tensors& tensors, const std::string& name, const Shape& shape, std::int64_t row,
           std::int64_t column, const Tensor& values);
  // Rows [tokens, width] of this rank's tokens between blocks.
  void add_rows(Tensors& tensors, const std::string& name, const TokenMap& tokens, const Tensor& rows);
  // Values, F32 or BF16, of which other ranks may hold copies; `disagreed` gets the name where two differ.
  void add_copy(Tensors& tensors, std::vector<std::string>& disagreed, const std::string& name,
                const Shape& shape, std::int64_t row, std::int64_t column, const Tensor& values);
  // The first thing wrong with a microbatch of the run.
  void add_batch_fault(Record& record, std::int64_t microbatch, const std::string& fault);
  // Notes elements that never came.
  void check_complete(const Tensors& tensors);
  const std::map<std::string, std::string>& uncovered() const { return uncovered_; }
  std::mutex& mutex() { return mutex_; }

 private:
  Whole& whole_of(Tensors& tensors, const std::string& name, const Shape& shape);
  void put(Whole& whole, const std::string& name, std::int64_t at, float value);

  const Subject& subject_;
  std::mutex mutex_;
  std::map<const Whole*, std::vector<char>> seen_;
  std::map<std::string, std::string> uncovered_;
};

// Records what tokens choose, or makes them repeat it and notes where they would not have.
class ChoiceObserver : public RoutingObserver {
 public:
  ChoiceObserver(const TokenMap& tokens, const Choices* replay, Record& record, Collector& collector)
      : tokens_(tokens), replay_(replay), record_(record), collector_(collector) {}
  Tensor choose(const std::string& layer, std::int64_t first, const Tensor& scores,
                const Tensor& chosen) override;

 private:
  void note_other(const std::string& layer, std::int64_t token, std::span<const float> scores,
                  std::span<const std::int32_t> chosen, std::span<const std::int32_t> recorded);

  const TokenMap& tokens_;
  const Choices* replay_;
  Record& record_;
  Collector& collector_;
};

}  // namespace tessera::verify
