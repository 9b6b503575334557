#include "kernels/cuda/native/gemm_choices.h"

#include <sys/file.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/error.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/new_file.h"

namespace tessera::cuda {
namespace {

constexpr int file_format = 1;

Json to_json(const GemmChoice& choice) {
  std::string digits;
  for (const std::uint64_t word : choice.algorithm) digits += fmt::format("{:016x}", word);
  Json json;
  json["algorithm"] = digits;
  json["description"] = choice.description;
  json["microseconds"] = choice.microseconds;
  return json;
}

GemmChoice from_json(const Json& json, const std::string& name) {
  const auto wrong = [&](const char* what) {
    fail("GEMM choice '{}': {}; remove it to have the shape timed again", name, what);
  };
  if (!json.is_object() || !json.contains("algorithm") || !json["algorithm"].is_string())
    wrong("there is no text 'algorithm'");
  GemmChoice choice;
  const auto& digits = json["algorithm"].get_ref<const std::string&>();
  if (digits.size() != 16 * choice.algorithm.size() ||
      digits.find_first_not_of("0123456789abcdef") != std::string::npos)
    wrong("'algorithm' is not 128 hexadecimal digits");
  for (std::size_t i = 0; i < choice.algorithm.size(); ++i)
    choice.algorithm[i] = std::stoull(digits.substr(16 * i, 16), nullptr, 16);
  if (json.contains("description") && json["description"].is_string())
    choice.description = json["description"].get<std::string>();
  if (json.contains("microseconds") && json["microseconds"].is_number())
    choice.microseconds = json["microseconds"].get<double>();
  return choice;
}

}  // namespace

std::string to_text(const GemmChoice& choice) {
  return to_json(choice).dump();
}

GemmChoice choice_from_text(const std::string& text, const std::string& name) {
  return from_json(parse_json(text, name), name);
}

std::filesystem::path ChoiceFile::default_path() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::filesystem::path(value == nullptr ? "" : value);
  };
  if (auto path = variable("TESSERA_GEMM_CACHE"); !path.empty()) return path;
  // The base directory specification has relative paths ignored.
  if (auto cache = variable("XDG_CACHE_HOME"); cache.is_absolute()) return cache / "tessera" / "gemm.json";
  if (auto home = variable("HOME"); !home.empty()) return home / ".cache" / "tessera" / "gemm.json";
  return {};
}

ChoiceFile::Lock::Lock(ChoiceFile& file) {
  if (file.path_.empty()) return;
  try {
    std::error_code ignored;  // opening says what is wrong
    if (file.path_.has_parent_path()) std::filesystem::create_directories(file.path_.parent_path(), ignored);
    auto lock = std::make_unique<io::File>(io::File::open_append(file.path_.string() + ".lock"));
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (flock(lock->descriptor(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR)
        fail("cannot lock '{}': {}", lock->path().string(), errno_text(errno));
      if (std::chrono::steady_clock::now() > end) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    file_ = std::move(lock);
  } catch (const Error& error) {
    file.warn_once(error.what());
  }
}

std::map<std::string, GemmChoice> ChoiceFile::read() {
  std::map<std::string, GemmChoice> choices;
  std::error_code ignored;
  if (path_.empty() || !std::filesystem::exists(path_, ignored)) return choices;
  try {
    const Json json = read_json(path_, std::uint64_t{64} << 20);
    if (!json.is_object() || !json.contains("format") || json["format"] != file_format ||
        !json.contains("choices") || !json["choices"].is_object())
      fail("'{}' is no file of GEMM choices; remove it", path_.string());
    for (const auto& [name, entry] : json["choices"].items()) choices[name] = from_json(entry, name);
  } catch (const Error& error) {
    warn_once(error.what());
    choices.clear();
  }
  return choices;
}

void ChoiceFile::add(const Lock& lock, const std::string& name, const GemmChoice& choice) {
  if (!lock.held()) return;
  try {
    std::map<std::string, GemmChoice> choices = read();
    choices[name] = choice;
    Json json;
    json["format"] = file_format;
    Json& entries = json["choices"] = Json::object();
    for (const auto& [key, value] : choices) entries[key] = to_json(value);
    io::write_atomically(path_, json.dump(2) + "\n");
  } catch (const Error& error) {
    warn_once(error.what());
  }
}

void ChoiceFile::warn_once(const std::string& reason) {
  if (!warned_) log::warn("GEMM choices are not kept between runs: {}", reason);
  warned_ = true;
}

}  // namespace tessera::cuda
