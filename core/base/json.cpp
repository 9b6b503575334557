#include "core/base/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/lfs.h"

namespace tessera {
namespace {

constexpr std::size_t max_depth = 128;

std::string place(std::string_view text, std::size_t offset) {
  offset = std::min(offset, text.size());
  const std::string_view before = text.substr(0, offset);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t newline = before.rfind('\n');
  return fmt::format("{}:{}", line, newline == std::string_view::npos ? offset + 1 : offset - newline);
}

// Builds the value and refuses duplicate keys and depth on the way.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, std::string_view origin) : text_(text), origin_(origin) {}
  Json take() { return std::move(root_); }

  bool null() override { return put(nullptr); }
  bool boolean(bool v) override { return put(v); }
  bool number_integer(number_integer_t v) override { return put(v); }
  bool number_unsigned(number_unsigned_t v) override { return put(v); }
  bool number_float(number_float_t v, const string_t&) override { return put(v); }
  bool string(string_t& v) override { return put(std::move(v)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& k) override {
    if (!keys_.back().insert(k).second) fail("{}: duplicate key '{}'", origin_, k);
    pending_key_ = std::move(k);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    std::string what = e.what();
    if (const std::size_t at = what.rfind("; "); at != std::string::npos)
      what = what.substr(at + 2);
    else if (const std::size_t colon = what.find(": "); colon != std::string::npos)
      what = what.substr(colon + 2);
    fail("{}:{}: invalid JSON: {}", origin_, place(text_, position == 0 ? 0 : position - 1), what);
  }

 private:
  bool put(Json value) {
    slot() = std::move(value);
    return true;
  }
  bool open(Json container) {
    if (stack_.size() >= max_depth) fail("{}: more than {} nested levels", origin_, max_depth);
    Json& place_ = slot();
    place_ = std::move(container);
    stack_.push_back(&place_);
    keys_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }
  // Where the next value goes. Pointers on the stack stay valid: a container only grows while it is the
  // innermost.
  Json& slot() {
    if (stack_.empty()) return root_;
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(nullptr);
      return parent.back();
    }
    // ordered_json looks a key up linearly; duplicates are already excluded, so append.
    auto& object = parent.get_ref<Json::object_t&>();
    object.Container::emplace_back(std::move(pending_key_), nullptr);
    return object.back().second;
  }

  std::string_view text_;
  std::string_view origin_;
  Json root_;
  std::vector<Json*> stack_;
  std::vector<std::set<std::string>> keys_;
  std::string pending_key_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view origin) {
  refuse_lfs_pointer(text, origin);
  // The library takes one for the end of the text and would not look at what follows.
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos)
    fail("{}:{}: invalid JSON: a NUL byte", origin, place(text, nul));
  Builder builder(text, origin);
  Json::sax_parse(text, &builder);
  return builder.take();
}

Json read_json(const std::filesystem::path& path, std::uint64_t limit) {
  return parse_json(io::read_text(path, limit), path.string());
}

}  // namespace tessera
