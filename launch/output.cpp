#include "launch/output.h"

#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/safetensors.h"
#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "data/token_file.h"
#include "data/tokenizer/trainer.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t largest_read = std::uint64_t{1} << 28;

std::optional<struct stat> info_of(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return info;
}

bool same(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool has_writer(const fs::path& path, const char* writer) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  const auto found = file.metadata().find("written_by");
  return found != file.metadata().end() && found->second == writer;
}

// The first line of bench kernels --json.
bool is_timing(const fs::path& path) {
  const std::string text = io::read_text(path, largest_read);
  const Json line = parse_json(std::string_view(text).substr(0, text.find('\n')), path.string());
  return line.is_object() && line.size() > 4 && line.begin().key() == "slot" && line.contains("candidate") &&
         line.contains("shape") && line.contains("us");
}

}  // namespace

const OutputKind& token_file_output() {
  static const OutputKind kind{"a token file of tessera data prepare", false, is_token_file};
  return kind;
}

const OutputKind& tokenizer_output() {
  static const OutputKind kind{"a tokenizer.json of tessera tokenizer train", true, [](const fs::path& path) {
                                 return is_trained_tokenizer(io::read_text(path, largest_read));
                               }};
  return kind;
}

const OutputKind& tokenizer_config_output() {
  static const OutputKind kind{
      "a tokenizer_config.json of tessera tokenizer train", true,
      [](const fs::path& path) { return is_trained_tokenizer_config(io::read_text(path, largest_read)); }};
  return kind;
}

const OutputKind& tokens_output() {
  static const OutputKind kind{"a file of tessera data inspect", true,
                               [](const fs::path& path) { return has_writer(path, tokens_writer); }};
  return kind;
}

const OutputKind& logits_output() {
  static const OutputKind kind{"a file of tessera logits", true,
                               [](const fs::path& path) { return has_writer(path, logits_writer); }};
  return kind;
}

const OutputKind& timings_output() {
  static const OutputKind kind{"a file of tessera bench kernels", true, is_timing};
  return kind;
}

void Outputs::add_option(CLI::App& verb, bool& force) {
  verb.add_flag("--force", force, "Replace a file at the place of an output, whatever it is");
}

// `file` exists; `what` names it.
void Outputs::refuse_inputs(const std::string& what, const fs::path& file) const {
  const auto info = info_of(file);
  if (!info) return;
  const auto compare = [&](const fs::path& input) {
    if (const auto other = info_of(input); other && S_ISREG(other->st_mode) && same(*info, *other))
      fail_usage("{} is the same file as '{}', which is read; choose another name", what, input.string());
  };
  for (const fs::path& input : inputs_) {
    compare(input);
    std::error_code error;
    for (fs::recursive_directory_iterator it(input, error), end; !error && it != end; it.increment(error))
      compare(it->path());
  }
}

fs::path Outputs::settle(const std::string& option, const std::string& path, const OutputKind& kind) {
  const std::string what = fmt::format("{} '{}'", option, path);
  if (path.empty()) fail_usage("{} is empty; name a file", option);
  fs::path file = path == "-" ? fs::path("/dev/stdout") : fs::path(path);
  fs::path resolved;
  try {
    resolved = io::resolve_links(file);
  } catch (const Error& e) {
    throw Error(fmt::format("{}: {}", option, e.what()), ExitCode::usage);
  }
  if (std::find(taken_.begin(), taken_.end(), resolved) != taken_.end())
    fail_usage("{} is where another file of this command goes; choose another name", what);
  taken_.push_back(resolved);
  const auto info = info_of(resolved);
  if (info && S_ISDIR(info->st_mode)) fail_usage("{} is a folder; name a file", what);
  if (!info && !resolved.has_filename()) fail_usage("{} ends like a folder; name a file", what);
  if (resolved.parent_path() == "/proc/self/fd" || (info && !S_ISREG(info->st_mode))) {
    if (!kind.streams)
      fail_usage(
          "{}: {} is not written from front to back, as standard output, pipes and devices want it; "
          "name a file",
          what, kind.name);
    return file;
  }
  if (!info || info->st_size == 0) return file;
  refuse_inputs(what, resolved);
  bool ours = force_;
  try {
    ours = ours || kind.wrote(resolved);
  } catch (const std::exception&) {  // not even of its format
  }
  if (!ours)
    fail_usage("{} exists and is not {}; choose another name, or replace it with --force", what, kind.name);
  return file;
}

}  // namespace tessera
