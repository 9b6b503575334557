#include "launch/options.h"

#include <charconv>
#include <cmath>
#include <optional>

#include "core/base/error.h"
#include "launch/advice.h"

namespace tessera {
namespace {

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  Number value{};
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

// "010" is 8 to some programs.
bool has_leading_zero(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return text.size() > 1 && text[0] == '0' && text[1] >= '0' && text[1] <= '9';
}

std::string range_text(const std::string& low, const std::string& high) {
  return high.empty() ? "of at least " + low : "from " + low + " to " + high;
}

const CLI::App& last_verb(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().back();
  return *at;
}

std::string full_name(const CLI::App& verb) {
  const CLI::App* parent = verb.get_parent();
  return parent == nullptr ? verb.get_name() : full_name(*parent) + " " + verb.get_name();
}

// The first word that no verb or option took, and the verb that met it.
std::optional<std::pair<std::string, const CLI::App*>> first_unknown(const CLI::App& app) {
  for (const CLI::App* at = &app;; at = at->get_subcommands().back()) {
    const std::vector<std::string> left = at->remaining();
    if (!left.empty()) return std::pair(left.front(), at);
    if (at->get_subcommands().empty()) return std::nullopt;
  }
}

std::string about_unknown(const std::string& word, const CLI::App& verb) {
  std::vector<std::string> known;
  if (word.starts_with('-') && word != "-") {
    for (const CLI::Option* option : verb.get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
      for (const std::string& name : option->get_snames()) known.push_back("-" + name);
    }
    const std::string name = word.substr(0, word.find('='));
    return fmt::format("'{}' is no option of {}{}", name, full_name(verb), did_you_mean(name, known));
  }
  std::string all;
  for (const CLI::App* sub : verb.get_subcommands({})) {
    known.push_back(sub->get_name());
    all += (all.empty() ? "" : ", ") + sub->get_name();
  }
  if (known.empty()) return fmt::format("'{}' is an argument too many for {}", word, full_name(verb));
  const std::string suggestion = did_you_mean(word, known);
  return fmt::format("'{}' is no verb of {}{}", word, full_name(verb),
                     suggestion.empty() ? "; there are: " + all : suggestion);
}

std::string about_mismatch(const std::string& message) {
  const std::string option = message.substr(0, message.find(':'));
  if (message.find("At Most") != std::string::npos) return option + " is given more than once";
  if (message.find("missing") != std::string::npos || message.find("At least") != std::string::npos)
    return option + " lacks its value";
  return message;
}

}  // namespace

CLI::Validator whole_number(std::int64_t low, std::int64_t high) {
  const bool open = high == std::numeric_limits<std::int64_t>::max();
  const std::string range = range_text(std::to_string(low), open ? "" : std::to_string(high));
  return {[=](std::string& text) {
            const auto value = parse_number<std::int64_t>(text);
            if (value && *value >= low && *value <= high && !has_leading_zero(text)) return std::string();
            return fmt::format("must be a whole number {}, found '{}'", range, text);
          },
          range};
}

CLI::Validator real_number(double low, double high) {
  const std::string range = range_text(fmt::format("{}", low), fmt::format("{}", high));
  return {[=](std::string& text) {
            const auto value = parse_number<double>(text);
            if (value && std::isfinite(*value) && *value >= low && *value <= high) return std::string();
            return fmt::format("must be a number {}, found '{}'", range, text);
          },
          range};
}

CLI::Validator one_of(const std::vector<std::string>& words) {
  std::string all;
  for (std::size_t i = 0; i < words.size(); ++i)
    all += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + words[i];
  return {[=](std::string& text) {
            if (std::find(words.begin(), words.end(), text) != words.end()) return std::string();
            return fmt::format("must be {}, found '{}'{}", all, text, advice_on(text, words));
          },
          all};
}

CLI::Validator not_empty() {
  return {[](std::string& text) { return text.empty() ? std::string("must not be empty") : std::string(); },
          ""};
}

std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  std::string message = error.what();
  if (const auto unknown = first_unknown(app)) {
    message = about_unknown(unknown->first, *unknown->second);
  } else if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    message = about_mismatch(message);
  } else if (message == "A subcommand is required") {
    std::string all;
    for (const CLI::App* sub : last_verb(app).get_subcommands({}))
      all += (all.empty() ? "" : ", ") + sub->get_name();
    message = "a verb is missing; there are: " + all;
  }
  return fmt::format("{}; see `{} --help`", message, full_name(last_verb(app)));
}

}  // namespace tessera
