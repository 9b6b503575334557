// Checkpoints whose manifest says something else, under a hash that holds.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "checkpoint/manifest.h"
#include "core/base/io.h"

namespace tessera {

inline void forge_meta(const std::filesystem::path& checkpoint, const std::function<void(Json&)>& edit) {
  const std::filesystem::path file = checkpoint / manifest_name;
  Manifest manifest = parse_manifest(io::read_text(file), file.string());
  Json meta = *manifest.meta;
  edit(meta);
  manifest.meta = std::make_shared<const Json>(std::move(meta));
  std::ofstream(file, std::ios::binary | std::ios::trunc) << manifest_text(manifest);
}

}  // namespace tessera
