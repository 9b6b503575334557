#include <CLI/CLI.hpp>
#include <cstdio>

#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/base/thread_pool.h"
#include "data/bigram.h"
#include "data/prepare.h"
#include "launch/command_line.h"

namespace tessera {
namespace {

void report(const std::string& path, const TokenFileInfo& info) {
  log::info("wrote {}: {} tokens, {} documents, {:.2f} bytes of text a token", path, info.tokens,
            info.documents, static_cast<double>(info.text_bytes) / static_cast<double>(info.tokens));
}

}  // namespace

void add_data_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("data", "Prepare token files");
  verb->require_subcommand(1);
  CLI::App* prepare_verb = verb->add_subcommand("prepare", "Tokenize text into a token file for training");
  auto options = std::make_shared<PrepareOptions>();
  auto tokenizer = std::make_shared<std::string>();
  options->threads = available_cpus();
  prepare_verb->add_option("inputs", options->inputs, "Files: .txt or .jsonl, each also .gz or .zst")
      ->required();
  prepare_verb->add_option("--tokenizer", *tokenizer, "tokenizer.json")->required();
  prepare_verb->add_option("--out", options->out, "The token file to write, F.h5")->required();
  prepare_verb
      ->add_option("--documents", options->documents.split,
                   "How .txt splits: file, blank-line, or a pattern whose matching line begins a document")
      ->capture_default_str();
  prepare_verb->add_option("--text-key", options->documents.text_key, "The key of the text in .jsonl")
      ->capture_default_str();
  prepare_verb
      ->add_option("--valid-fraction", options->valid_fraction, "Share of documents that go to F.valid.h5")
      ->check(CLI::Range(0.0, 0.9));
  prepare_verb->add_option("--eos", options->eos, "Token that ends each document (default: the tokenizer's)");
  prepare_verb->add_flag("--parse-special", options->parse_special,
                         "Special tokens written in the text become their ids");
  prepare_verb->add_flag("--strict", options->documents.strict,
                         "Refuse invalid UTF-8 in .txt instead of repairing it");
  prepare_verb->add_option("--threads", options->threads, "Threads")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  prepare_verb->footer(
      "Example:\n  tessera data prepare --tokenizer tokenizer.json --out train.h5 --valid-fraction 0.01 "
      "corpus.txt");
  prepare_verb->callback([options, tokenizer, &chosen] {
    chosen = [options, tokenizer] {
      const Prepared prepared = prepare(Tokenizer::load(*tokenizer), *options);
      report(options->out, prepared.train);
      if (prepared.valid) report(valid_path(options->out), *prepared.valid);
      return 0;
    };
  });
  auto train = std::make_shared<std::string>();
  auto valid = std::make_shared<std::string>();
  CLI::App* bigram_verb = verb->add_subcommand("bigram", "A bigram model's loss: what a model must beat");
  bigram_verb->add_option("train", *train, "Token file to count")->required();
  bigram_verb->add_option("valid", *valid, "Token file to predict")->required();
  bigram_verb->footer("Example:\n  tessera data bigram train.h5 train.valid.h5");
  bigram_verb->callback([train, valid, &chosen] {
    chosen = [train, valid] {
      const double loss = bigram_loss(TokenFile(*train), TokenFile(*valid));
      std::printf("bigram loss %.4f nats a token\n", loss);
      return 0;
    };
  });
}

}  // namespace tessera
