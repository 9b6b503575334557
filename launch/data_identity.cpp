#include "launch/data_identity.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/log.h"

namespace tessera {
namespace {

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "an unnamed host";
}

// What ids mean by a tokenizer.json, whoever wrote it out again: its layout, and how batches are cut and
// padded, say nothing.
nlohmann::json meaning_of(const std::string& text, const std::string& origin) {
  nlohmann::json meaning = parse_json(text, origin);
  if (meaning.is_object())
    for (const char* key : {"truncation", "padding"}) meaning.erase(key);
  return meaning;
}

void compare_streams(const Json& data_meta, const Dataset& data, const std::string& origin) {
  constexpr const char* advice = "put the one back, or use another checkpoint.dir with init.from";
  const Json& sources = data_meta.at("sources");
  for (std::size_t i = 0; i < data.sources(); ++i) {
    const Json& saved = sources.at(i);
    const TokenFile& file = data.file(i);
    if (saved.at("content") != file.content_hash())
      fail_usage(
          "'{}' was trained on other tokens than '{}' holds: source {} was '{}' with {} tokens (content "
          "{:.8}), and is one with {} (content {:.8}); {}",
          origin, file.path().string(), i, saved.at("path").get<std::string>(), saved.at("tokens").dump(),
          saved.at("content").get<std::string>(), file.info().tokens, file.content_hash(), advice);
  }
  const auto samples = data_meta.at("samples").get<std::uint64_t>();
  const std::vector<std::uint64_t> now = data.positions(samples);
  const Json& then = data_meta.at("source_samples");
  for (std::size_t i = 0; i < now.size(); ++i)
    if (then.at(i) != Json(now[i]))
      fail_usage(
          "'{}' drew {} of its first {} samples from '{}', where this version of tessera draws {}: go on "
          "with the version that began the run",
          origin, then[i].dump(), samples, data.file(i).path().string(), now[i]);
}

}  // namespace

void require_same_files(std::span<const TokenFile* const> files, ProcessGroup& ranks) {
  Json mine = {{"host", host_name()}, {"tokens", Json::array()}, {"content", Json::array()}};
  for (const TokenFile* file : files) {
    mine["tokens"].push_back(file->info().tokens);
    mine["content"].push_back(file->content_hash());
  }
  const std::vector<std::string> texts = ranks.all_gather_text(mine.dump());
  const Json first = Json::parse(texts[0]);
  for (std::size_t r = 1; r < texts.size(); ++r) {
    const Json other = Json::parse(texts[r]);
    for (std::size_t i = 0; i < files.size(); ++i)
      if (other["content"][i] != first["content"][i])
        fail(
            "'{}' is not the same file on all ranks: rank 0 on {} reads {} tokens (content {:.8}), rank {} "
            "on {} "
            "reads {} (content {:.8}); give every node the same",
            files[i]->path().string(), first["host"].get<std::string>(), first["tokens"][i].dump(),
            first["content"][i].get<std::string>(), r, other["host"].get<std::string>(),
            other["tokens"][i].dump(), other["content"][i].get<std::string>());
  }
}

void warn_of_unused_sources(const Config& config, const Dataset& data) {
  const std::int64_t samples = config.train.steps * config.train.global_batch;
  const std::vector<std::uint64_t> drawn = data.positions(static_cast<std::uint64_t>(samples));
  for (std::size_t i = 0; i < drawn.size(); ++i)
    if (drawn[i] == 0)
      log::warn("none of this run's {} samples is of '{}': its weight of {:g} is too small for so few",
                samples, data.file(i).path().string(), config.data.train[i].weight);
}

Json data_meta(const Dataset& data, std::uint64_t samples) {
  Json sources = Json::array();
  for (std::size_t i = 0; i < data.sources(); ++i)
    sources.push_back({{"path", data.file(i).path().string()},
                       {"tokens", data.file(i).info().tokens},
                       {"content", data.file(i).content_hash()}});
  return {{"samples", samples}, {"source_samples", data.positions(samples)}, {"sources", sources}};
}

bool tells_contents(const Json& data_meta) {
  return data_meta.is_object() && data_meta.contains("sources");
}

void require_same_stream(const Json& data_meta, const Dataset& data, const std::string& origin) {
  try {
    compare_streams(data_meta, data, origin);
  } catch (const nlohmann::json::exception& e) {
    fail("{}: its 'data' is not what this version writes ({})", origin, e.what());
  }
}

std::string tokenizer_conflict(const ModelSource& model, const TokenFile& file) {
  const auto& files = model.description().files;
  const auto theirs = files.find("tokenizer.json");
  const std::string ours = file.tokenizer_json();
  if (theirs == files.end() || ours.empty()) return "";
  const std::string hash = sha256_hex(bytes_of(theirs->second));
  if (hash == file.info().tokenizer_sha256) return "";
  if (meaning_of(ours, file.path().string()) == meaning_of(theirs->second, model.origin())) return "";
  return fmt::format(
      "'{}' was prepared with another tokenizer (SHA-256 {:.8}) than that of '{}' ({:.8}): prepare "
      "the text again with the model's",
      file.path().string(), file.info().tokenizer_sha256, model.origin(), hash);
}

}  // namespace tessera
