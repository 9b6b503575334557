#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/io.h"
#include "core/base/thread_pool.h"
#include "core/tensor/device.h"
#include "data/text.h"
#include "data/tokenizer/tokenizer.h"
#include "launch/command_line.h"
#include "launch/estimate.h"
#include "launch/inference.h"
#include "launch/options.h"
#include "launch/process.h"

namespace tessera {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct TokenizerArguments {
  std::string tokenizer, text;
  int threads = available_cpus();
  std::size_t document_bytes = 20000;
};

// Where each document begins, and the end: pieces of about `size` bytes, cut between characters.
std::vector<std::size_t> cut_documents(const std::string& text, std::size_t size) {
  std::vector<std::size_t> cuts{0};
  while (cuts.back() < text.size()) {
    std::size_t cut = std::min(text.size(), cuts.back() + size);
    while (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xC0U) == 0x80U) ++cut;
    cuts.push_back(cut);
  }
  return cuts;
}

int bench_tokenizer(const TokenizerArguments& arguments) {
  const Tokenizer tokenizer = Tokenizer::load(arguments.tokenizer);
  std::string text = io::read_text(arguments.text, std::uint64_t{1} << 36);
  repair_utf8(text);
  const std::vector<std::size_t> cuts = cut_documents(text, arguments.document_bytes);
  ThreadPool pool(arguments.threads);
  std::vector<std::vector<std::uint32_t>> documents(cuts.size() - 1);
  const auto start = std::chrono::steady_clock::now();
  pool.parallel_for(static_cast<std::int64_t>(documents.size()), [&](std::int64_t i) {
    const auto d = static_cast<std::size_t>(i);
    documents[d] = tokenizer.encode(std::string_view(text).substr(cuts[d], cuts[d + 1] - cuts[d]), false);
  });
  const double seconds = seconds_since(start);
  std::size_t tokens = 0;
  for (const auto& ids : documents) tokens += ids.size();
  const Json result{{"mb_per_s", static_cast<double>(text.size()) / 1e6 / seconds},
                    {"tokens", tokens},
                    {"threads", arguments.threads},
                    {"peak_mib", peak_resident_bytes() >> 20}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

void add_bench_tokenizer(CLI::App& bench, Action& chosen) {
  CLI::App* verb =
      bench.add_subcommand("tokenizer", "Encode a text in documents of 20,000 bytes: MB/s, as a JSON line");
  auto arguments = std::make_shared<TokenizerArguments>();
  verb->add_option("tokenizer", arguments->tokenizer, "tokenizer.json")->required();
  verb->add_option("text", arguments->text, "A text file, read into memory first")->required();
  verb->add_option("--threads", arguments->threads, "Threads")
      ->capture_default_str()
      ->check(whole_number(1, 1024));
  verb->footer("Example:\n  tessera bench tokenizer tokenizer.json corpus.txt");
  verb->callback([arguments, &chosen] { chosen = [arguments] { return bench_tokenizer(*arguments); }; });
}

struct MatmulArguments {
  std::int64_t size = 1024;
  int threads = 0;
};

int bench_matmul(const MatmulArguments& arguments) {
  const auto device = make_inference_device(arguments.threads);
  const Json result{{"size", arguments.size},
                    {"threads", device->threads().size()},
                    {"fp32_tflops", measure_flops(*device, DType::f32, arguments.size) / 1e12},
                    {"bf16_tflops", measure_flops(*device, DType::bf16, arguments.size) / 1e12}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

void add_bench_matmul(CLI::App& bench, Action& chosen) {
  CLI::App* verb = bench.add_subcommand(
      "matmul", "Matrix products as a model of this hidden size has them, as a JSON line");
  auto arguments = std::make_shared<MatmulArguments>();
  verb->add_option("--hidden-size", arguments->size, "Hidden size")
      ->capture_default_str()
      ->check(whole_number(16, 1 << 16));
  verb->add_option("--threads", arguments->threads, "Threads; all cores if not given")
      ->check(whole_number(1, 1024));
  verb->footer("Example:\n  tessera bench matmul --hidden-size 4096");
  verb->callback([arguments, &chosen] { chosen = [arguments] { return bench_matmul(*arguments); }; });
}

}  // namespace

void add_bench_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("bench", "Measure this machine");
  verb->require_subcommand(1);
  add_bench_tokenizer(*verb, chosen);
  add_bench_matmul(*verb, chosen);
  add_bench_kernels_verb(*verb, chosen);
}

}  // namespace tessera
