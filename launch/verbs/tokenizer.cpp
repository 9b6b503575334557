#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <optional>

#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/log.h"
#include "core/base/new_file.h"
#include "core/base/progress.h"
#include "core/base/standard_output.h"
#include "core/base/thread_pool.h"
#include "data/documents.h"
#include "data/text.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/trainer.h"
#include "launch/command_line.h"
#include "launch/options.h"
#include "launch/output.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string read_standard_input() {
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n < 0) fail("cannot read standard input: {}", errno_text(errno));
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
  }
}

struct TrainArguments {
  std::vector<std::string> inputs;
  std::string text_key = "text";
  std::string out = "tokenizer.json";
  std::int64_t vocab_size = 32768;
  std::vector<std::string> special{"<|end_of_text|>"};
  bool force = false;
};

// The files to write: tokenizer.json and, unless that is a stream, tokenizer_config.json beside it.
struct TrainedFiles {
  explicit TrainedFiles(const TrainArguments& arguments) {
    Outputs outputs({arguments.inputs.begin(), arguments.inputs.end()}, arguments.force);
    tokenizer.emplace(outputs.settle("--out", arguments.out, tokenizer_output()));
    if (tokenizer->is_stream()) return;
    const fs::path beside = fs::path(arguments.out).replace_filename("tokenizer_config.json");
    config.emplace(outputs.settle("beside --out,", beside.string(), tokenizer_config_output()));
  }
  std::optional<io::NewFile> tokenizer, config;
};

// Each is a token of its own that is not empty and readable text.
void check_special(const std::vector<std::string>& special) {
  for (auto token = special.begin(); token != special.end(); ++token) {
    if (first_invalid_utf8(*token)) fail_usage("--special '{}' is not UTF-8", *token);
    if (std::find(special.begin(), token, *token) != token)
      fail_usage("--special '{}' is given more than once", *token);
  }
}

int train(const TrainArguments& arguments) {
  check_special(arguments.special);
  TrainedFiles files(arguments);
  PieceCounter counter;
  std::uint64_t repaired = 0;
  for (const std::string& input : arguments.inputs)
    const TextReader opens(input, arguments.text_key);  // or fails before the others are read
  for (const std::string& input : arguments.inputs) {
    Progress progress("reading " + input, static_cast<double>(fs::file_size(input)), "MB", 1e6);
    TextReader reader(input, arguments.text_key);
    std::uint64_t seen = 0;
    for (std::string text; reader.next(text);) {
      try {
        counter.add(text);
      } catch (const Error& e) {
        fail("{}:{}: {}", input, reader.line(), e.what());
      }
      progress.advance(static_cast<double>(reader.bytes_read() - seen));
      seen = reader.bytes_read();
    }
    repaired += reader.repaired();
  }
  if (repaired > 0) log::warn("{} invalid UTF-8 sequences were read as U+FFFD", repaired);
  std::string json;
  {
    Progress progress("learning merges", static_cast<double>(arguments.vocab_size) - 256, "merges");
    json = train_bpe(counter, arguments.vocab_size, arguments.special,
                     [&](std::int64_t n) { progress.advance(static_cast<double>(n)); });
  }
  files.tokenizer->file().write(json);
  if (files.config) {
    files.config->file().write(trained_tokenizer_config(arguments.special));
    files.config->finish();
  }
  files.tokenizer->finish();
  log::info("wrote {} ({} tokens){}", arguments.out, arguments.vocab_size,
            files.config ? " and tokenizer_config.json beside it" : "");
  return 0;
}

void print_ids(const std::vector<std::uint32_t>& ids) {
  std::string line;
  for (const std::uint32_t id : ids) {
    if (!line.empty()) line += ' ';
    line += std::to_string(id);
  }
  line += '\n';
  standard_output::write(line);
}

int encode(const std::string& path, bool lines) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  const std::string text = read_standard_input();
  if (const auto bad = first_invalid_utf8(text))
    fail("standard input is not UTF-8: byte {} is invalid", *bad);
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size() || (!lines && line == 0);) {
    const std::size_t end = lines ? std::min(text.find('\n', begin), text.size()) : text.size();
    ++line;
    std::vector<std::uint32_t> ids;
    try {
      ids = tokenizer.encode(std::string_view(text).substr(begin, end - begin), true);
    } catch (const Error& e) {
      fail("standard input:{}: {}", line, e.what());
    }
    print_ids(ids);
    begin = end + 1;
  }
  return 0;
}

int decode(const std::string& path) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  const std::string text = read_standard_input();
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::vector<std::uint32_t> ids;
    for (std::size_t at = begin; at < end;) {
      const std::size_t stop = std::min(text.find(' ', at), end);
      const std::string word = text.substr(at, stop - at);
      if (!word.empty()) {
        if (word.size() > 10 || word.find_first_not_of("0123456789") != std::string::npos)
          fail_usage("standard input holds '{}', which is no token id", word.substr(0, 40));
        ids.push_back(static_cast<std::uint32_t>(std::stoull(word)));
      }
      at = stop + 1;
    }
    const std::string bytes =
        tokenizer.decode(ids) + (end < text.size() && end + 1 < text.size() ? "\n" : "");
    standard_output::write(bytes);
    begin = end + 1;
  }
  return 0;
}

}  // namespace

void add_tokenizer_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("tokenizer", "Train a tokenizer, or use one");
  verb->require_subcommand(1);

  CLI::App* train_verb = verb->add_subcommand("train", "Train byte-level BPE on text files");
  auto arguments = std::make_shared<TrainArguments>();
  train_verb->add_option("inputs", arguments->inputs, "Text files, or .jsonl; each also .gz or .zst")
      ->required();
  train_verb->add_option("--out", arguments->out, "Where to write tokenizer.json")->capture_default_str();
  train_verb->add_option("--vocab-size", arguments->vocab_size, "Tokens in all")
      ->capture_default_str()
      ->check(whole_number(257, 1 << 24));
  train_verb->add_option("--text-key", arguments->text_key, "The key of the text in .jsonl")
      ->capture_default_str();
  train_verb->add_option("--special", arguments->special, "Special tokens; the first ends documents")
      ->capture_default_str()
      ->check(not_empty());
  Outputs::add_option(*train_verb, arguments->force);
  train_verb->footer("Example:\n  tessera tokenizer train --vocab-size 8192 --out tokenizer.json corpus.txt");
  train_verb->callback([arguments, &chosen] { chosen = [arguments] { return train(*arguments); }; });

  auto file = std::make_shared<std::string>();
  auto lines = std::make_shared<bool>(false);
  CLI::App* encode_verb = verb->add_subcommand("encode", "Text on standard input to ids");
  encode_verb->add_option("file", *file, "tokenizer.json")->required();
  encode_verb->add_flag("--lines", *lines, "Each line is a document of its own");
  encode_verb->footer("Example:\n  echo 'Hello, world' | tessera tokenizer encode tokenizer.json");
  encode_verb->callback([file, lines, &chosen] { chosen = [file, lines] { return encode(*file, *lines); }; });

  CLI::App* decode_verb = verb->add_subcommand("decode", "Ids on standard input, a document a line, to text");
  decode_verb->add_option("file", *file, "tokenizer.json")->required();
  decode_verb->footer("Example:\n  echo 15339 1917 | tessera tokenizer decode tokenizer.json");
  decode_verb->callback([file, &chosen] { chosen = [file] { return decode(*file); }; });
}

}  // namespace tessera
