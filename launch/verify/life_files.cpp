#include "launch/verify/life_files.h"

#include <algorithm>
#include <cerrno>

#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/philox.h"

namespace tessera::verify {
namespace {

namespace fs = std::filesystem;

// `tokens` of them in documents of unlike lengths.
void write_tokens(const Subject& subject, const fs::path& path, const std::string& stream,
                  std::int64_t tokens, std::int64_t tail_of_one_token) {
  const std::int64_t vocab = subject.spec.vocab_size;
  const std::int64_t length = subject.batch.seq_len;
  const std::int64_t lengths[] = {length + length / 4, length / 4, 3, 2 * length, length / 4 + 1, length / 2};
  const Key key(subject.seed, stream);
  TokenFileWriter writer(path, vocab, std::nullopt, "");
  std::int64_t at = 0;
  for (std::size_t document = 0; at < tokens; ++document) {
    std::vector<std::uint32_t> ids;
    const std::int64_t end = std::min(tokens, at + lengths[document % std::size(lengths)]);
    for (; at < end; ++at)
      ids.push_back(at >= tokens - tail_of_one_token
                        ? 1
                        : static_cast<std::uint32_t>(uniform(key, static_cast<std::uint64_t>(at)) *
                                                     static_cast<float>(vocab)));
    writer.add(ids, ids.size());
  }
  writer.finish();
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (fs::temp_directory_path() / "tessera-verify-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr)
    fail("verify needs a folder for temporary files and cannot make '{}': {}; set TMPDIR, or use --fast",
         pattern, errno_text(errno));
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

LifeFiles write_life_files(const Subject& subject, const Config& config, const ParallelLayout& layout,
                           const fs::path& folder) {
  const BatchShape& batch = subject.batch;
  LifeFiles files;
  const double weights[] = {0.7, 0.3};
  for (std::size_t i = 0; i < std::clamp<std::size_t>(config.data.train.size(), 1, 2); ++i) {
    const std::string name = "train-" + std::to_string(i) + ".h5";
    write_tokens(subject, folder / name, name, (2 * batch.global_batch + 1) * batch.seq_len + 1, 0);
    files.train.push_back({(folder / name).string(), weights[i]});
  }
  // One window more than the ranks share evenly; then a file of one.
  const std::int64_t even = batch.micro_batch * layout.mesh.dp;
  for (std::size_t i = 0; i < std::clamp<std::size_t>(config.data.valid.size(), 1, 2); ++i) {
    const std::string name = "valid-" + std::to_string(i) + ".h5";
    write_tokens(subject, folder / name, name, (i == 0 ? even + 1 : 1) * batch.seq_len + 1,
                 batch.seq_len + 1);
    files.valid.push_back(folder / name);
  }
  return files;
}

}  // namespace tessera::verify
