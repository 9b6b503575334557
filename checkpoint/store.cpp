#include "checkpoint/store.h"

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/manifest.h"
#include "checkpoint/retention.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/log.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t largest_manifest = std::uint64_t{1} << 30;

bool has_manifest(const fs::path& path) {
  std::error_code error;
  return fs::exists(path / manifest_name, error);
}

// The path of a checkpoint's file. A link may show other content tomorrow, or outlive what it shows.
fs::path file_of(const fs::path& folder, const std::string& file) {
  std::error_code error;
  if (fs::is_symlink(fs::symlink_status(folder / file, error)))
    fail("'{}' is a symbolic link; a checkpoint's files lie in its folder: copy it there",
         (folder / file).string());
  return folder / file;
}

// A shard that the manifest does not list comes from another save: something was mixed up.
void refuse_extra_shards(const fs::path& folder, const Manifest& manifest) {
  std::set<std::string> listed;
  for (const ShardEntry& shard : manifest.shards) listed.insert(shard.file);
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().extension() == ".h5" && !listed.contains(it->path().filename().string()))
      fail(
          "'{}' is not listed in the checkpoint's manifest; remove it, or put back the manifest it came with",
          it->path().string());
}

}  // namespace

struct LoadedCheckpoint::State {
  fs::path path;
  Manifest manifest;
  std::map<std::string, std::string> files;
  std::vector<TensorInfo> tensors;
  std::vector<io::File> shards;  // by index in the manifest
  struct Piece {
    std::size_t shard = 0, slab = 0;
    std::shared_ptr<std::vector<std::atomic<bool>>> checked;  // by chunk
  };
  std::map<std::pair<std::string, std::string>, std::vector<Piece>> pieces;

  const SlabEntry& entry(const Piece& piece) const { return manifest.shards[piece.shard].slabs[piece.slab]; }

  // Two readers may both check a chunk for the first time; both find the same.
  void check_chunk(const Piece& piece, std::uint64_t chunk) const {
    std::atomic<bool>& checked = (*piece.checked)[chunk];
    if (checked.load(std::memory_order_acquire)) return;
    const SlabEntry& slab = entry(piece);
    const std::uint64_t begin = chunk * chunk_bytes;
    std::vector<std::byte> bytes(std::min(chunk_bytes, slab.bytes() - begin));
    shards[piece.shard].read_at(slab.offset + begin, bytes);
    if (xxh3_128_hex(bytes) != slab.hashes[chunk])
      fail("'{}' is damaged: {} of tensor '{}', bytes {} to {} (hash differs)",
           shards[piece.shard].path().string(), slab.state, slab.name, slab.offset + begin,
           slab.offset + begin + bytes.size());
    checked.store(true, std::memory_order_release);
  }
};

const fs::path& LoadedCheckpoint::path() const {
  return state_->path;
}
std::int64_t LoadedCheckpoint::step() const {
  return state_->manifest.step;
}
const Json& LoadedCheckpoint::meta() const {
  return *state_->manifest.meta;
}
const std::map<std::string, std::string>& LoadedCheckpoint::files() const {
  return state_->files;
}
const std::vector<TensorInfo>& LoadedCheckpoint::tensors() const {
  return state_->tensors;
}
int LoadedCheckpoint::shards() const {
  return static_cast<int>(state_->shards.size());
}

const TensorInfo* LoadedCheckpoint::find(const std::string& name, const std::string& state) const {
  for (const TensorInfo& tensor : state_->tensors)
    if (tensor.name == name && tensor.state == state) return &tensor;
  return nullptr;
}

std::uint64_t LoadedCheckpoint::payload_bytes() const {
  std::uint64_t total = 0;
  for (const ShardEntry& shard : state_->manifest.shards)
    for (const SlabEntry& slab : shard.slabs) total += slab.bytes();
  return total;
}

void LoadedCheckpoint::read(const std::string& name, const std::string& state, const Slab& slab,
                            void* out) const {
  const auto found = state_->pieces.find({name, state});
  if (found == state_->pieces.end()) fail("'{}' holds no {} of tensor '{}'", path().string(), state, name);
  for (const State::Piece& piece : found->second) {
    const SlabEntry& entry = state_->entry(piece);
    assert(lies_within(slab, entry.shape));
    const auto part = intersection(slab, entry.slab);
    if (!part) continue;
    const std::uint64_t size = bytes_per_element(entry.dtype);
    for_each_run(*part, entry.slab, slab, [&](std::int64_t from, std::int64_t to, std::int64_t count) {
      const std::uint64_t begin = static_cast<std::uint64_t>(from) * size;
      const std::uint64_t bytes = static_cast<std::uint64_t>(count) * size;
      for (std::uint64_t chunk = begin / chunk_bytes; chunk <= (begin + bytes - 1) / chunk_bytes; ++chunk)
        state_->check_chunk(piece, chunk);
      auto* target = static_cast<std::byte*>(out) + static_cast<std::uint64_t>(to) * size;
      state_->shards[piece.shard].read_at(entry.offset + begin, std::span(target, bytes));
    });
  }
}

void LoadedCheckpoint::read_whole(const std::string& name, const std::string& state, void* out) const {
  const TensorInfo* info = find(name, state);
  if (info == nullptr) fail("'{}' holds no {} of tensor '{}'", path().string(), state, name);
  read(name, state, whole(info->shape), out);
}

void LoadedCheckpoint::verify(int part, int parts, const std::function<void(std::uint64_t)>& progress) const {
  const State& s = *state_;
  for (std::size_t i = static_cast<std::size_t>(part); i < s.shards.size();
       i += static_cast<std::size_t>(parts))
    if (structure_hash(s.shards[i].path(), s.manifest.shards[i]) != s.manifest.shards[i].structure_hash)
      fail("'{}' is damaged outside its tensors (hash differs)", s.shards[i].path().string());
  int turn = 0;
  for (const auto& [key, pieces] : s.pieces)
    for (const State::Piece& piece : pieces)
      for (std::uint64_t chunk = 0; chunk < piece.checked->size(); ++chunk) {
        if (turn++ % parts != part) continue;
        s.check_chunk(piece, chunk);
        if (progress) progress(std::min(chunk_bytes, s.entry(piece).bytes() - chunk * chunk_bytes));
      }
}

fs::path checkpoint_path(const fs::path& dir, std::int64_t step) {
  return dir / fmt::format("step-{:08}", step);
}

bool is_checkpoint(const fs::path& path) {
  return has_manifest(path) || !list_checkpoints(path).empty();
}

LoadedCheckpoint open_checkpoint(const fs::path& path, bool verify) {
  if (!has_manifest(path)) {
    std::vector<std::string> bad;
    const auto newest = open_newest(
        path, [&](const std::string& line) { bad.push_back(line); }, verify);
    if (!newest)
      fail("'{}' is no checkpoint: it has no {} and holds no good step-* directory{}", path.string(),
           manifest_name, bad.empty() ? "" : "; " + bad.back());
    for (const std::string& line : bad) log::warn("{}", line);
    return *newest;
  }
  auto state = std::make_shared<LoadedCheckpoint::State>();
  state->path = path;
  const std::string origin = (path / manifest_name).string();
  state->manifest = parse_manifest(io::read_text(file_of(path, manifest_name), largest_manifest), origin);
  if (const auto step = step_of_folder(path); step && *step != state->manifest.step)
    fail("{} is of step {}, not of the step that its folder's name gives", origin, state->manifest.step);
  refuse_extra_shards(path, state->manifest);
  for (const auto& [file, entry] : state->manifest.files) {
    std::string content = io::read_text(file_of(path, file));
    if (content.size() != entry.bytes || xxh3_128_hex(bytes_of(content)) != entry.hash)
      fail("'{}' is damaged (hash differs)", (path / file).string());
    state->files[file] = std::move(content);
  }
  for (std::size_t i = 0; i < state->manifest.shards.size(); ++i) {
    const ShardEntry& shard = state->manifest.shards[i];
    state->shards.push_back(io::File::open_read(file_of(path, shard.file)));
    if (state->shards.back().size() != shard.bytes)
      fail("'{}' has {} bytes; its manifest says {}", (path / shard.file).string(),
           state->shards.back().size(), shard.bytes);
    for (std::size_t j = 0; j < shard.slabs.size(); ++j) {
      const SlabEntry& slab = shard.slabs[j];
      auto& pieces = state->pieces[{slab.name, slab.state}];
      if (pieces.empty()) state->tensors.push_back({slab.name, slab.state, slab.dtype, slab.shape});
      pieces.push_back({i, j, std::make_shared<std::vector<std::atomic<bool>>>(slab.hashes.size())});
    }
  }
  LoadedCheckpoint checkpoint;
  checkpoint.state_ = std::move(state);
  if (verify) checkpoint.verify();
  return checkpoint;
}

std::optional<LoadedCheckpoint> open_newest(const fs::path& dir, const Log& warn, bool verify,
                                            Coordination& ranks) {
  std::string candidates;
  if (ranks.rank() == 0) {
    auto entries = list_checkpoints(dir);
    const auto incomplete = list_incomplete(dir);
    entries.insert(entries.end(), incomplete.begin(), incomplete.end());
    std::stable_sort(entries.begin(), entries.end(),
                     [](const auto& a, const auto& b) { return a.step > b.step; });
    for (const CheckpointEntry& entry : entries) candidates += entry.path.string() + "\n";
  }
  candidates = ranks.broadcast_text(candidates);
  for (std::size_t begin = 0; begin < candidates.size();) {
    const std::size_t end = candidates.find('\n', begin);
    const fs::path path = candidates.substr(begin, end - begin);
    begin = end + 1;
    std::optional<LoadedCheckpoint> checkpoint;
    std::string cause;
    try {
      if (!has_manifest(path)) fail("it has no {}: incomplete, or no checkpoint", manifest_name);
      checkpoint = open_checkpoint(path);
      if (verify) checkpoint->verify(ranks.rank(), ranks.size());
    } catch (const std::exception& e) {
      cause = e.what();
    }
    const auto causes = ranks.gather_text(cause);
    if (ranks.agree(cause.empty())) return checkpoint;
    for (const std::string& text : causes) {
      if (text.empty()) continue;
      warn(fmt::format("checkpoint '{}' is passed over: {}", path.string(), text));
      break;
    }
  }
  return std::nullopt;
}

}  // namespace tessera
