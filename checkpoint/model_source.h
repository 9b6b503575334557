// A model to read from: a checkpoint of ours or a Hugging Face directory, seen alike.
//
// What checkpoints say about their model is also fixed here: the trainer and `import` put model_meta() into
// the checkpoint's meta, and attach the tokenizer and the other files under their usual names.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/hf_config.h"
#include "core/nn/model.h"

namespace tessera {

class LoadedCheckpoint;

// Where a run had come to when it saved the model.
struct TrainedBy {
  std::string run;            // the name of its directory of checkpoints
  std::string config_sha256;  // of the config that the checkpoint holds
  std::int64_t step = 0, tokens = 0;
};

// What belongs to a model besides its tensors.
struct ModelDescription {
  ReleaseConfig release;
  DType dtype = DType::f32;                  // of an import its weights', else the training precision's
  std::map<std::string, std::string> files;  // tokenizer.json, chat_template.jinja, …: name to content
  std::optional<TrainedBy> trained_by = {};  // of checkpoints that `train` made
};

// What a release may hold besides weights and config.json, and is carried along.
inline constexpr const char* release_attachments[] = {"tokenizer.json",
                                                      "tokenizer_config.json",
                                                      "special_tokens_map.json",
                                                      "added_tokens.json",
                                                      "vocab.json",
                                                      "merges.txt",
                                                      "chat_template.jinja",
                                                      "chat_template.json",
                                                      "generation_config.json",
                                                      "LICENSE",
                                                      "LICENSE.txt",
                                                      "LICENSE.md",
                                                      "NOTICE",
                                                      "USE_POLICY.md",
                                                      "README.md"};

// The value of a checkpoint meta's key "model".
Json model_meta(const ModelDescription& description);

// A logical tensor of a model: the unit of checkpoints and releases.
struct LogicalTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};
// Of a spec, in the model's order; allocates no tensor.
std::vector<LogicalTensor> logical_tensors(const ModelSpec& spec);
// The same one by one, for sizes that nobody has checked against a file yet: holds those of one layer at a
// time, and what `visit` throws ends it.
void visit_logical_tensors(const ModelSpec& spec, const std::function<void(LogicalTensor)>& visit);

// A logical tensor's name in releases, for import and publish alike; nullopt if the family has none of that
// name.
std::optional<std::string> release_name(const Family& family, std::string_view logical);

// An open model; a cheap handle, any thread. Opening checks that the tensors of the config are there, with
// its shapes, and in a release no others.
class ModelSource {
 public:
  class Reader;
  // `beyond`: see there.
  ModelSource(ModelDescription description, std::string origin, std::shared_ptr<const Reader> reader,
              std::vector<LogicalTensor> beyond = {});

  const ModelDescription& description() const { return *description_; }
  const ModelSpec& spec() const { return description_->release.spec; }
  const std::string& origin() const { return origin_; }  // the directory that was opened
  // Tensors that are there and that the spec has no place for: choice biases of experts.
  const std::vector<LogicalTensor>& beyond() const { return beyond_; }
  // Throws Error, naming one, if a model of the spec would not be the one that was trained: it has choice
  // biases of experts, which no release can say.
  void require_nothing_beyond() const;
  // Whole rows [first, first + rows) of a logical tensor of `shape`, as fp32.
  void read(const LogicalTensor& tensor, std::int64_t first, std::int64_t rows, std::span<float> out) const;

 private:
  std::shared_ptr<const ModelDescription> description_;
  std::string origin_;
  std::shared_ptr<const Reader> reader_;
  std::vector<LogicalTensor> beyond_;
};

class ModelSource::Reader {
 public:
  virtual ~Reader() = default;
  virtual void read(const LogicalTensor& tensor, std::int64_t first, std::int64_t rows,
                    std::span<float> out) const = 0;
};

// `path` is a checkpoint, a directory of checkpoints (its newest good one, with a warning in the log for each
// that is passed over) or a Hugging Face directory.
ModelSource open_model(const std::filesystem::path& path);
ModelSource open_release(const std::filesystem::path& dir);  // a Hugging Face directory only
// The weights of a checkpoint as a model of this description.
ModelSource checkpoint_source(LoadedCheckpoint checkpoint, ModelDescription description);

// Fills every parameter of `model`, which has the source's spec. Requires nothing beyond.
void load_parameters(Model& model, const ModelSource& source);
// The same with every value rounded to `dtype` on the way.
void load_parameters(Model& model, const ModelSource& source, DType rounded_to);

}  // namespace tessera
