// Checks of what is typed: on the command line, and words that configs choose among. Each mistake is one
// clear line. Any thread.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace tessera {

// A decimal integer from `low` to `high`: no sign that says nothing, no leading zero, no other base.
CLI::Validator whole_number(std::int64_t low, std::int64_t high = std::numeric_limits<std::int64_t>::max());

// A finite decimal number from `low` to `high`.
CLI::Validator real_number(double low, double high);

CLI::Validator one_of(const std::vector<std::string>& words);

// Any text but an empty one.
CLI::Validator not_empty();

// What is wrong with the command line, where, and what to do: one line for the error that parsing `app`
// threw.
std::string explain(const CLI::App& app, const CLI::ParseError& error);

}  // namespace tessera
