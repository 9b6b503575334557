#include <nlohmann/json.hpp>

#include "checkpoint/manifest.h"
#include "checkpoint/retention.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/new_file.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

// Runs `work` on this rank; if it threw on any rank, all throw the first cause. Returns what all ranks made,
// on rank 0.
std::vector<std::string> all_or_none(Coordination& ranks, const std::function<std::string()>& work) {
  std::string made;
  std::string cause;
  bool full = false;
  try {
    made = work();
  } catch (const std::exception& e) {
    cause = e.what();  // whatever it is, the other ranks wait for the answer
    full = dynamic_cast<const io::DiskFull*>(&e) != nullptr;
  }
  const std::vector<std::string> causes = ranks.gather_text(cause);
  std::vector<std::string> results = ranks.gather_text(made);
  if (ranks.agree(cause.empty())) return results;
  std::string first;
  for (std::size_t r = 0; r < causes.size() && first.empty(); ++r)
    if (!causes[r].empty()) first = ranks.size() > 1 ? fmt::format("rank {}: {}", r, causes[r]) : causes[r];
  first = ranks.broadcast_text(first);
  if (ranks.agree(cause.empty() || full)) throw io::DiskFull(first);
  throw Error(first);
}

void attach(const fs::path& path, const std::string& content) {
  io::File file = io::File::create(path);
  file.write(content);
  file.sync();
  file.close();
}

// Puts the finished folder in its place. What stood there is set aside first, under a name that readers
// count as long as the place is empty: one of the two stands at every moment.
void commit(const fs::path& partial, const fs::path& final_path) {
  const fs::path replaced = final_path.string() + std::string(replaced_suffix);
  const bool replaces = fs::exists(final_path);
  if (replaces) io::rename_file(final_path, replaced);
  try {
    io::rename_file(partial, final_path);
  } catch (...) {
    std::error_code ignored;
    if (replaces) fs::rename(replaced, final_path, ignored);
    throw;
  }
  io::sync_folder(final_path.parent_path());
  if (replaces) delete_checkpoint(replaced);
}

}  // namespace

fs::path save_checkpoint(const fs::path& dir, std::int64_t step, const std::vector<StateSlice>& slices,
                         const Json& meta, const std::map<std::string, std::string>& files,
                         Coordination& ranks) {
  fs::path final_path = checkpoint_path(dir, step);
  const fs::path partial = final_path.string() + std::string(partial_suffix);
  bool created = false;
  try {
    all_or_none(ranks, [&] {
      if (ranks.rank() != 0) return std::string();
      std::error_code error;
      fs::create_directories(dir, error);
      if (!error) {
        clear_leftovers(dir);
        // What is still in the way is not ours: nothing may be written into it, nor removed with it.
        for (const fs::path& path : {partial, final_path})
          if (fs::symlink_status(path, error).type() != fs::file_type::not_found &&
              (path == partial || !fs::exists(path / manifest_name)))
            fail("'{}' is in the way of the checkpoint, and is none itself: move it", path.string());
        error.clear();
        fs::create_directory(partial, error);
        created = !error;
      }
      if (error) fail("cannot create '{}': {}", partial.string(), error.message());
      return std::string();
    });
    const auto shards = all_or_none(ranks, [&] {
      if (slices.empty()) return std::string();
      const std::string name = fmt::format("shard-{:05}-of-{:05}.h5", ranks.rank(), ranks.size());
      return shard_text(write_shard(partial, name, slices));
    });
    all_or_none(ranks, [&] {
      if (ranks.rank() != 0) return std::string();
      Manifest manifest{step, std::make_shared<const Json>(meta), {}, {}};
      for (const std::string& shard : shards)
        if (!shard.empty()) manifest.shards.push_back(parse_shard(shard, "a rank's shard"));
      for (const auto& [name, content] : files)
        manifest.files[name] = {content.size(), xxh3_128_hex(bytes_of(content))};
      const std::string text = manifest_text(manifest);
      parse_manifest(text, partial.string());  // refuses what no reader would take
      for (const auto& [name, content] : files) attach(partial / name, content);
      io::sync_folder(partial);
      io::write_atomically(partial / manifest_name, text);
      commit(partial, final_path);
      return std::string();
    });
  } catch (...) {
    if (created) {
      std::error_code ignored;
      fs::remove_all(partial, ignored);
    }
    throw;
  }
  return final_path;
}

}  // namespace tessera
