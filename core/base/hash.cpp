#include "core/base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include <array>
#include <cassert>
#include <vector>

#include "core/base/error.h"
#include "core/base/io.h"

namespace tessera {
namespace {

std::string hex(std::span<const unsigned char> digest) {
  std::string text;
  for (const unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1)
      fail("OpenSSL offers no SHA-256 here");
  }
  void update(std::span<const std::byte> bytes) {
    EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  }
  std::string finish() {
    std::array<unsigned char, 32> digest{};
    EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
    return hex(digest);
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::uint64_t xxh3_64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::string xxh3_128_hex(std::span<const std::byte> bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  return hex(canonical.digest);
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 sha;
  sha.update(bytes);
  return sha.finish();
}

std::string sha256_hex_of_file(const std::filesystem::path& path) {
  const io::File file = io::File::open_read(path);
  Sha256 sha;
  std::vector<std::byte> buffer(1 << 20);
  const std::uint64_t size = file.size();
  for (std::uint64_t offset = 0; offset < size; offset += buffer.size()) {
    const std::span<std::byte> part(buffer.data(), std::min<std::uint64_t>(buffer.size(), size - offset));
    file.read_at(offset, part);
    sha.update(part);
  }
  return sha.finish();
}

}  // namespace tessera
