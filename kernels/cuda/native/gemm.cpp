#include "kernels/cuda/native/gemm.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/tensor/device.h"
#include "kernels/cuda/native/check.h"
#include "kernels/cuda/native/cublaslt.h"
#include "kernels/cuda/native/gemm_choices.h"
#include "kernels/cuda/native/gemm_tune.h"
#include "kernels/cuda/native/libraries.h"

namespace tessera::cuda {
namespace {

constexpr int most_suggestions = 16;

int alignment(const Tensor& tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.raw());
  int bytes = 16;
  while (address % static_cast<std::uintptr_t>(bytes) != 0) bytes /= 2;
  return bytes;
}

// Whatever decides which algorithms there are, and how fast.
std::string machine_name() {
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "asking for the GPU");
  check(cudaGetDeviceProperties(&properties, device), "asking for the GPU's properties");
  return fmt::format("cuBLASLt {}, {}, {} SMs", cublasLtGetVersion(), properties.name,
                     properties.multiProcessorCount);
}

bool tuning_wanted() {
  const char* wish = std::getenv("TESSERA_GEMM_TUNE");
  return wish == nullptr || std::string_view(wish) != "0";
}

lt::Algorithm algorithm_of(const GemmChoice& choice) {
  lt::Algorithm algorithm{};
  std::copy(choice.algorithm.begin(), choice.algorithm.end(), algorithm.data);
  return algorithm;
}

GemmChoice choice_of(const lt::Algorithm& algorithm, double seconds) {
  GemmChoice choice;
  std::copy_n(algorithm.data, choice.algorithm.size(), choice.algorithm.begin());
  choice.description = lt::describe(algorithm);
  choice.microseconds = std::round(1e9 * seconds) / 1e3;
  return choice;
}

[[maybe_unused]] bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "asking whether a graph is captured");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

std::string GemmKey::text() const {
  return fmt::format("{}x{}x{} {}{} {} {} {}{}{}, aligned {} {} {}{}", m, n, k, transpose_a ? 'T' : 'N',
                     transpose_b ? 'T' : 'N', name(a), name(b), name(c), accumulate ? " accumulate" : "",
                     bias ? " bias" : "", align_a, align_b, align_c,
                     bias ? fmt::format(" {}", align_bias) : "");
}

GemmKey gemm_key(const MatmulArgs& args, const Tensor& bias) {
  GemmKey key;
  key.m = args.c.size(0);
  key.n = args.c.size(1);
  key.k = args.a.size(args.transpose_a ? 0 : 1);
  key.transpose_a = args.transpose_a;
  key.transpose_b = args.transpose_b;
  key.a = args.a.dtype();
  key.b = args.b.dtype();
  key.c = args.c.dtype();
  key.accumulate = args.accumulate;
  key.bias = bias.defined();
  key.align_a = alignment(args.a);
  key.align_b = alignment(args.b);
  key.align_c = alignment(args.c);
  if (key.bias) key.align_bias = alignment(bias);
  return key;
}

struct Gemm::State {
  struct Plan {
    lt::Problem problem;
    lt::Algorithm algorithm;
  };

  explicit State(Device& device_)
      : device(device_),
        stream(native_stream(device_.stream())),
        handle(lt::make_handle()),
        workspace(device_, workspace_bytes),
        machine(machine_name()),
        file(ChoiceFile::default_path()),
        tune(tuning_wanted()) {}

  std::string name_of(const GemmKey& key) const { return machine + ", " + key.text(); }
  lt::Scratch scratch() const { return {workspace.address(), workspace_bytes}; }

  const Plan& plan(const GemmKey& key);
  GemmChoice choose(const GemmKey& key, const lt::Problem& problem);
  GemmChoice choose_by_timing(const GemmKey& key, const lt::Problem& problem);
  GemmChoice time(const GemmKey& key, const lt::Problem& problem);

  Device& device;
  cudaStream_t stream;
  lt::Handle handle;
  Storage workspace;
  std::string machine;
  ChoiceFile file;
  bool tune;
  std::map<GemmKey, Plan> plans;
  std::map<std::string, GemmChoice> choices;  // used or given
};

const Gemm::State::Plan& Gemm::State::plan(const GemmKey& key) {
  const auto found = plans.find(key);
  if (found != plans.end()) return found->second;
  lt::Problem problem(handle.get(), key);
  const GemmChoice choice = choose(key, problem);
  choices[name_of(key)] = choice;
  return plans.emplace(key, Plan{std::move(problem), algorithm_of(choice)}).first->second;
}

GemmChoice Gemm::State::choose(const GemmKey& key, const lt::Problem& problem) {
  if (const auto given = choices.find(name_of(key)); given != choices.end()) {
    if (problem.accepts(algorithm_of(given->second), workspace_bytes)) return given->second;
    log::warn("the GEMM choice for {} does not run here; results may round differently", given->first);
  }
  if (!tune) return choice_of(problem.suggestions(workspace_bytes, 1).front(), 0);
  return choose_by_timing(key, problem);
}

GemmChoice Gemm::State::choose_by_timing(const GemmKey& key, const lt::Problem& problem) {
  assert(!capturing(stream) && "multiply a shape once before capturing it");
  const std::string name = name_of(key);
  const ChoiceFile::Lock lock(file);
  const auto kept = file.read();
  if (const auto found = kept.find(name);
      found != kept.end() && problem.accepts(algorithm_of(found->second), workspace_bytes))
    return found->second;
  GemmChoice choice = time(key, problem);
  if (choice.microseconds > 0) file.add(lock, name, choice);
  return choice;
}

GemmChoice Gemm::State::time(const GemmKey& key, const lt::Problem& problem) {
  const auto suggestions = problem.suggestions(workspace_bytes, most_suggestions);
  device.stream().synchronize();  // what is under way may wait for other ranks: not within the tuner's waits
  Tuner tuner(problem, key, scratch(), stream);
  if (!tuner.ready()) {
    log::warn("no memory to time the product {}: cuBLASLt's first suggestion is taken", key.text());
    return choice_of(suggestions.front(), 0);
  }
  const std::vector<double> seconds = tuner.time(suggestions);
  const auto best = std::min_element(seconds.begin(), seconds.end());
  if (std::isinf(*best)) fail("cuBLASLt ran none of its algorithms for {}", key.text());
  return choice_of(suggestions[static_cast<std::size_t>(best - seconds.begin())], *best);
}

Gemm::Gemm(Device& device) : state_(std::make_unique<State>(device)) {}
Gemm::~Gemm() = default;

void Gemm::matmul(const MatmulArgs& args) {
  run(args, {});
}

void Gemm::matmul(const MatmulArgs& args, const Tensor& bias) {
  assert(bias.defined() && bias.numel() == args.c.size(1) && bias.dtype() == args.c.dtype() &&
         bias.is_contiguous());
  run(args, bias);
}

void Gemm::run(const MatmulArgs& args, const Tensor& bias) {
  assert(args.a.is_contiguous() && args.b.is_contiguous() && args.c.is_contiguous());
  assert(args.a.dtype() == args.b.dtype());
  if (args.c.numel() == 0) return;
  const GemmKey key = gemm_key(args, bias);
  assert(args.b.size(args.transpose_b ? 1 : 0) == key.k);
  if (key.k == 0) {
    assert(!key.bias);
    if (!args.accumulate) Tensor(args.c).zero();
    return;
  }
  const State::Plan& plan = state_->plan(key);
  const lt::Operands operands{args.a.raw(), args.b.raw(), args.c.raw(), key.bias ? bias.raw() : nullptr};
  lt::check(plan.problem.run(plan.algorithm, operands, state_->scratch(), state_->stream), "multiplying");
}

Gemm::Choices Gemm::choices() const {
  Choices texts;
  for (const auto& [name, choice] : state_->choices) texts[name] = to_text(choice);
  return texts;
}

void Gemm::set_choices(const Choices& texts) {
  std::map<std::string, GemmChoice> given;
  for (const auto& [name, text] : texts) given[name] = choice_from_text(text, name);
  for (auto& [name, choice] : given) state_->choices[name] = std::move(choice);
  std::erase_if(state_->plans, [&](const auto& plan) { return given.contains(state_->name_of(plan.first)); });
}

Gemm::Comparison Gemm::compare(const GemmKey& key) {
  const lt::Problem problem(state_->handle.get(), key);
  const auto suggestions = problem.suggestions(workspace_bytes, most_suggestions);
  Tuner tuner(problem, key, state_->scratch(), state_->stream);
  if (!tuner.ready()) fail("no memory to time the product {}", key.text());
  const std::vector<double> seconds = tuner.time(suggestions);
  const auto best =
      static_cast<std::size_t>(std::min_element(seconds.begin(), seconds.end()) - seconds.begin());
  // Once more, the two alone: the least of many noisy times flatters.
  const std::array<lt::Algorithm, 2> finalists = {suggestions.front(), suggestions[best]};
  const std::vector<double> again = tuner.time(finalists);
  return {again[0], again[1], static_cast<int>(suggestions.size()), lt::describe(finalists[1])};
}

Gemm& gemm_of(Device& device) {
  std::shared_ptr<Gemm>& gemm = libraries(device).gemm;
  if (gemm == nullptr) gemm = std::make_shared<Gemm>(device);
  return *gemm;
}

namespace {

void run_matmul(const MatmulArgs& args, Workspace) {
  gemm_of(args.c.device()).matmul(args);
}

const Register<MatmulArgs> register_matmul(matmul_kernel(), {DeviceKind::cuda, "cublaslt", run_matmul});

}  // namespace
}  // namespace tessera::cuda
