#include "launch/notices.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <regex>

#include "core/base/error.h"

namespace tessera {
namespace {

constexpr std::size_t longest_box = 4096;
constexpr std::size_t longest_notice = 512;
const std::string ruler(74, '-');

bool contains(std::string_view text, std::string_view words) {
  return text.find(words) != std::string_view::npos;
}

// Whether a line that begins so may turn out to be a notice.
bool may_be_notice(const std::string& begin) {
  if (begin.size() > longest_notice) return false;
  return begin.starts_with("[") || begin.starts_with("srun: ") || std::string("srun: ").starts_with(begin) ||
         ruler.starts_with(begin);
}

bool says_nothing(const std::string& line) {
  if (!may_be_notice(line)) return false;
  static const std::regex aggregated(
      R"(^\[[^\]]+:\d+\] (\d+ more process(es)? ha(s|ve) sent help message|Set MCA parameter "orte_base_help_aggregate"|.*ORTE_ERROR_LOG: .*show_help\.c).*)");
  static const std::regex left(R"(^srun: error: \S+: tasks? [^:]+: Exited with exit code 75$)");
  return std::regex_match(line, aggregated) || std::regex_match(line, left);
}

// Codes whose reason the ranks tell (README.md).
bool is_told_by_ranks(int code) {
  constexpr std::array told{ExitCode::failure, ExitCode::usage, ExitCode::numbers_suspect, ExitCode::requeue,
                            ExitCode::watchdog};
  return std::any_of(told.begin(), told.end(), [&](ExitCode one) { return static_cast<int>(one) == code; });
}

std::string condensed(const std::string& box) {
  static const std::regex signalled(
      R"(process rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+) \(([^)]*)\))");
  static const std::regex first_exit(R"(Process name: \[\[\d+,\d+\],(\d+)\]\s+Exit code: +(\d+))");
  std::smatch found;
  if (std::regex_search(box, found, signalled))
    return fmt::format("error: rank {} on {} was ended by signal {} ({}){}\n", found[1].str(), found[2].str(),
                       found[3].str(), found[4].str(),
                       found[3] == "9" ? ": look into dmesg there, memory may have run out" : "");
  if (std::regex_search(box, found, first_exit))
    return is_told_by_ranks(std::stoi(found[2]))
               ? ""
               : fmt::format("error: rank {} ended with exit code {}\n", found[1].str(), found[2].str());
  for (const char* known : {"Per user-direction, the job has been aborted", "MPI_ABORT was invoked on rank"})
    if (contains(box, known)) return "";
  return box;
}

}  // namespace

void LaunchNotices::end_line(std::string& out) {
  line_ += '\n';
  if (shown_) {
    out += line_;
  } else if (!box_.empty() || line_ == ruler + '\n') {
    const bool closes = !box_.empty() && line_ == ruler + '\n';
    box_ += line_;
    if (closes || box_.size() > longest_box) {
      out += closes ? condensed(box_) : box_;
      box_.clear();
    }
  } else if (!says_nothing(line_.substr(0, line_.size() - 1))) {
    out += line_;
  }
  line_.clear();
  shown_ = false;
}

std::string LaunchNotices::pass(std::string_view bytes) {
  std::string out;
  for (std::size_t end; (end = bytes.find('\n')) != std::string_view::npos; bytes.remove_prefix(end + 1)) {
    line_ += bytes.substr(0, end);
    end_line(out);
  }
  line_ += bytes;
  if (box_.empty() && !line_.empty() && (shown_ || !may_be_notice(line_))) {  // progress without a newline
    out += line_;
    line_.clear();
    shown_ = true;
  }
  return out;
}

std::string LaunchNotices::rest() {
  std::string out = box_ + line_;
  box_.clear();
  line_.clear();
  return out;
}

}  // namespace tessera
