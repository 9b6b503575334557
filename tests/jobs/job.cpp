#include "tests/jobs/job.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "checkpoint/store.h"
#include "core/base/error.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

constexpr const char* config_text =
    "model: {family: qwen3, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, "
    "num_key_value_heads: 2, head_dim: 8, intermediate_size: 40, tie_word_embeddings: true}\n"
    "data: {train: [{path: train.h5}], seq_len: 16, document_mask: true}\n"
    "train: {steps: 6, global_batch: 8, micro_batch: 2, threads: 1}\n"
    "optimizer: {lr: 1e-2}\n"
    "schedule: {name: constant, warmup: 1}\n"
    "parallel: {reduce_groups: 4}\n"
    "checkpoint: {every: 3, keep: 1}\n"
    "log: {every: 100000}\n";

}  // namespace

Job::Job(const Words& command, const std::map<std::string, std::string>& environment, fs::path output,
         const fs::path& folder)
    : output_(std::move(output)) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  pid_ = fork();
  if (pid_ != 0) return;
  setpgid(0, 0);
  if (chdir(folder.c_str()) != 0) _exit(126);
  const int log = open(output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"}) setenv(name, "1", 1);
  execvp(words[0], words.data());
  _exit(127);
}

Job::~Job() {
  if (pid_ <= 0) return;
  kill(-pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Job::signal(int number) const {
  kill(pid_, number);
}

int Job::wait(double seconds) {
  int status = 0;
  if (!eventually(seconds, [&] { return waitpid(pid_, &status, WNOHANG) == pid_; })) return -1;
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string Job::output() const {
  return text_of(output_);
}

Runs::Runs() {
  write_counting_file(folder_ / "train.h5", 300, 60);
  std::ofstream(folder_ / "run.yaml") << config_text;
}

Words Runs::command(const std::string& name, int ranks, const Words& overrides) const {
  Words words;
  if (ranks > 1)
    words = {"mpirun",
             "-n",
             std::to_string(ranks),
             "--oversubscribe",
             "--bind-to",
             "none",
             "--mca",
             "mpi_yield_when_idle",
             "1"};
  const std::string data = "data.train=[{path: " + (folder_ / "train.h5").string() + "}]";
  words.insert(words.end(), {TESSERA_PROGRAM, "train", folder_ / "run.yaml", data,
                             "checkpoint.dir=" + (folder_ / name).string(),
                             "log.dir=" + (folder_ / (name + "_log")).string()});
  words.insert(words.end(), overrides.begin(), overrides.end());
  return words;
}

int Runs::verb(const Words& arguments) {
  Words words{TESSERA_PROGRAM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  Job job(words, {}, folder_ / "verb.output", folder_.path());
  const int code = job.wait(60);
  output = job.output();
  return code;
}

int Runs::shell(const std::string& line) {
  Job job({"sh", "-c", line}, {{"tessera", TESSERA_PROGRAM}}, folder_ / "shell.output", folder_.path());
  const int code = job.wait(60);
  output = job.output();
  return code;
}

int Runs::run(const std::string& name, int ranks, const Words& overrides, const std::string& fault) {
  std::map<std::string, std::string> environment;
  if (!fault.empty()) environment["TESSERA_IO_FAULT"] = fault;
  Job job(command(name, ranks, overrides), environment, folder_ / (name + ".output"));
  const int code = job.wait(60);
  output = job.output();
  return code;
}

std::string Runs::state(const std::string& name) const {
  const auto checkpoint = open_newest(folder_ / name, [](const std::string&) {});
  if (!checkpoint) return "";
  std::map<std::string, std::string> tensors;  // shards may list them in any order
  for (const TensorInfo& info : checkpoint->tensors()) {
    std::int64_t elements = 1;
    for (const std::int64_t extent : info.shape) elements *= extent;
    std::string bytes(static_cast<std::size_t>(elements) * bytes_per_element(info.dtype), '\0');
    checkpoint->read_whole(info.name, info.state, bytes.data());
    tensors[info.name + " " + info.state] = std::move(bytes);
  }
  std::string all = std::to_string(checkpoint->step());
  for (const auto& [key, bytes] : tensors) all += key + bytes;
  return all;
}

int Runs::logged_steps(const std::string& name) const {
  return count(text_of(folder_ / (name + "_log") / "metrics.jsonl"), "\"grad_norm\"");
}

std::vector<pid_t> Runs::processes() const {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t pid = static_cast<pid_t>(std::atoi(entry.path().filename().c_str()));
    if (pid > 0 && text_of(entry.path() / "cmdline").find(folder_.path().string()) != std::string::npos)
      found.push_back(pid);
  }
  return found;
}

bool eventually(double seconds, const std::function<bool()>& condition) {
  using Clock = std::chrono::steady_clock;
  for (const auto start = Clock::now(); !condition();) {
    if (std::chrono::duration<double>(Clock::now() - start).count() > seconds) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

int count(const std::string& text, const std::string& word) {
  int found = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++found;
  return found;
}

}  // namespace tessera
