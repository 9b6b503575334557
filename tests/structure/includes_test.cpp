// The layering of docs/design.md, read off the #include lines of the tree.

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

// What each folder may include of ours besides itself; parts of core in their order.
const std::map<std::string, Texts> may_include{
    {"core", {}},
    {"kernels", {"core"}},
    {"parallel", {"core"}},
    {"data", {"core"}},
    {"checkpoint", {"core", "parallel"}},
    {"launch", {"core", "kernels", "parallel", "data", "checkpoint"}},
};
const Texts core_order{"base", "tensor", "autograd", "ops", "nn", "models", "optim"};

// Where a library's headers may be included: folders end with a slash, files are whole paths.
struct Library {
  std::string_view headers;  // what the included name begins with
  Texts places;
};
const std::array<Library, 17> libraries{{
    {"mpi.h", {"parallel/comm/"}},
    {"nccl.h", {"parallel/comm/"}},
    {"cuda", {"kernels/cuda/", "parallel/comm/"}},
    {"cublas", {"kernels/cuda/"}},
    {"cudnn", {"kernels/cuda/"}},
    {"dnnl", {"kernels/cpu/"}},
    {"oneapi/", {"kernels/cpu/"}},
    {"yaml-cpp/", {"launch/config/"}},
    {"CLI/", {"launch/"}},
    {"hdf5", {"core/base/hdf5_file.cpp"}},
    {"spdlog/", {"core/base/log.cpp"}},
    {"openssl/", {"core/base/hash.cpp"}},
    {"xxhash.h", {"core/base/hash.cpp"}},
    {"zlib.h", {"data/byte_source.cpp"}},
    {"zstd.h", {"data/byte_source.cpp"}},
    {"pcre2.h", {"data/"}},
    {"hwloc", {"launch/"}},
}};

bool is_source(const fs::path& path) {
  const Texts extensions{".h", ".cpp", ".cu", ".cuh"};
  return std::find(extensions.begin(), extensions.end(), path.extension()) != extensions.end();
}

// The n-th folder of a path: part("core/base/io.h", 1) is "base".
std::string part(const fs::path& path, int n) {
  auto at = path.begin();
  for (; n > 0 && at != path.end(); --n) ++at;
  return at == path.end() ? "" : at->string();
}

std::ptrdiff_t core_rank(const std::string& name) {
  return std::find(core_order.begin(), core_order.end(), name) - core_order.begin();
}

// What is wrong with `file` including the file `other` of ours; "" if nothing is.
std::string fault_of_ours(const fs::path& root, const fs::path& file, const fs::path& other) {
  const std::string from = part(file, 0);
  const std::string to = part(other, 0);
  if (!may_include.contains(to)) return "is not named from the top of the tree";
  if (!fs::exists(root / other)) return "does not exist";
  if (from != to) {
    const Texts& allowed = may_include.at(from);
    const bool may = std::find(allowed.begin(), allowed.end(), to) != allowed.end();
    return may ? "" : from + " may not use " + to;
  }
  if (from != "core") return "";
  const std::ptrdiff_t mine = core_rank(part(file, 1));
  if (mine == std::ssize(core_order)) return "core/" + part(file, 1) + " has no place in core's order";
  return core_rank(part(other, 1)) <= mine ? "" : "core/" + part(file, 1) + " comes before it";
}

std::string fault_of_library(const std::string& file, const std::string& header) {
  for (const Library& library : libraries) {
    if (!header.starts_with(library.headers)) continue;
    const bool may = std::any_of(library.places.begin(), library.places.end(), [&](const std::string& place) {
      return place.ends_with('/') ? file.starts_with(place) : file == place;
    });
    if (!may) return "belongs in " + library.places.front() + " only";
  }
  return "";
}

struct Findings {
  int includes = 0;
  Texts faults;  // "core/base/io.h:7: …", in order of file and line
};

void check_file(const fs::path& root, const fs::path& file, Findings& findings) {
  static const std::regex pattern(R"re(^\s*#\s*include\s*(["<])([^">]+)[">].*)re");
  std::ifstream stream(root / file);
  std::string line;
  for (int number = 1; std::getline(stream, line); ++number) {
    std::smatch match;
    if (!std::regex_match(line, match, pattern)) continue;
    ++findings.includes;
    const std::string header = match[2];
    const bool library = match[1] == "<" && !may_include.contains(part(header, 0));
    const std::string fault =
        library ? fault_of_library(file.generic_string(), header) : fault_of_ours(root, file, header);
    if (fault.empty()) continue;
    findings.faults.push_back(fmt::format("{}:{}: '{}' {}", file.generic_string(), number, header, fault));
  }
}

Findings check_tree(const fs::path& root) {
  std::vector<fs::path> files;
  for (const auto& [folder, allowed] : may_include) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder))
      if (entry.is_regular_file() && is_source(entry.path()))
        files.push_back(fs::relative(entry.path(), root));
  }
  std::sort(files.begin(), files.end());
  Findings findings;
  for (const fs::path& file : files) check_file(root, file, findings);
  return findings;
}

TEST(Includes, GoOneWay) {
  const Findings findings = check_tree(TESSERA_SOURCE_DIR);
  EXPECT_GT(findings.includes, 500) << "read too few #include lines to mean anything";
  for (const std::string& fault : findings.faults) ADD_FAILURE() << fault;
}

// A made-up tree, for the checker itself.
class CheckerTest : public testing::Test {
 protected:
  CheckerTest()
      : root_(fs::path(TESSERA_BINARY_DIR) / "structure_test" /
              testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(root_);
  }
  ~CheckerTest() override { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  Texts faults() const { return check_tree(root_).faults; }

 private:
  fs::path root_;
};

TEST_F(CheckerTest, AllowsWhatTheOrderAllows) {
  write("core/base/io.h", "#pragma once\n#include <vector>\n");
  write("core/nn/model.h", "#include \"core/base/io.h\"\n#include \"core/nn/model.h\"\n");
  write("parallel/comm/mpi.cpp", "#include <mpi.h>\n#include \"core/nn/model.h\"\n");
  write("checkpoint/save.cpp", "#include \"parallel/comm/mpi.cpp\"\n");
  write("launch/config/yaml.cpp",
        "#include <yaml-cpp/parser.h>\n#include <CLI/CLI.hpp>\n#include \"checkpoint/save.cpp\"\n");
  write("tests/anything.cpp", "#include <mpi.h>\n");
  EXPECT_EQ(faults(), Texts{});
}

TEST_F(CheckerTest, NamesFileLineAndRule) {
  write("core/base/io.h", "#pragma once\n\n#include \"core/tensor/tensor.h\"\n#include \"data/text.h\"\n");
  write("core/tensor/tensor.h", "#include <hdf5.h>\n");
  write("core/extra/x.h", "#include \"core/extra/x.h\"\n");
  write("data/text.h", "  #  include \"checkpoint/save.h\"  // indented\n#include <mpi.h>\n");
  write("checkpoint/save.h", "#include <data/text.h>\n#include \"save.h\"\n#include \"core/base/gone.h\"\n");
  write("kernels/cpu/add.cu", "#include \"launch/trainer.h\"\n");
  write("launch/trainer.h", "#include <yaml-cpp/yaml.h>\n");
  EXPECT_EQ(faults(), (Texts{
                          "checkpoint/save.h:1: 'data/text.h' checkpoint may not use data",
                          "checkpoint/save.h:2: 'save.h' is not named from the top of the tree",
                          "checkpoint/save.h:3: 'core/base/gone.h' does not exist",
                          "core/base/io.h:3: 'core/tensor/tensor.h' core/base comes before it",
                          "core/base/io.h:4: 'data/text.h' core may not use data",
                          "core/extra/x.h:1: 'core/extra/x.h' core/extra has no place in core's order",
                          "core/tensor/tensor.h:1: 'hdf5.h' belongs in core/base/hdf5_file.cpp only",
                          "data/text.h:1: 'checkpoint/save.h' data may not use checkpoint",
                          "data/text.h:2: 'mpi.h' belongs in parallel/comm/ only",
                          "kernels/cpu/add.cu:1: 'launch/trainer.h' kernels may not use launch",
                          "launch/trainer.h:1: 'yaml-cpp/yaml.h' belongs in launch/config/ only",
                      }));
}

}  // namespace
}  // namespace tessera
