// The file at which processes meet: its format, and the locks that say who lives.
//
// A header, which rank 0 writes, then a place for each rank, which that rank writes. All of it is fixed in
// size, in this machine's byte order: the file is for processes of one node and one build. Locks are of open
// files (F_OFD_SETLK), one byte a rank, the same in every version of the format. Errors name the file.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace tessera {

enum class Presence : std::uint32_t { absent, here, done, failed };

class MeetingTable {
 public:
  // A new file under that name, in the place of one that was there, with rank 0's lock held. Its name is
  // there once all else is. Mode 0600.
  MeetingTable(const std::filesystem::path& file, int ranks, const std::string& program,
               const std::string& token);
  // The file of that name; nothing where there is none. Throws Error for one that is none of this user's, or
  // of another kind.
  static std::optional<MeetingTable> open(const std::filesystem::path& file);
  MeetingTable(MeetingTable&& other) noexcept;
  MeetingTable& operator=(MeetingTable&&) = delete;
  ~MeetingTable();  // gives its locks back

  // Whether another open file holds this rank's lock; takes it, if none does.
  bool is_held(int rank) const;
  bool hold(int rank);

  // The following know this version's format; throws Error for another.
  void check_version() const;
  int ranks() const { return static_cast<int>(header_.ranks); }
  std::string program() const { return header_.program.data(); }
  std::string token() const { return {header_.token.data(), header_.token_bytes}; }
  bool all_came() const;
  void say_all_came();
  std::string refusal() const;  // why there is no meeting; "" while nobody says
  void say_refusal(const std::string& cause);

  void come(int rank, const std::string& device);
  void say_presence(int rank, Presence presence);
  void say_position(int rank, const std::string& text);
  Presence presence(int rank) const;
  std::string device(int rank) const;
  std::string position(int rank) const;

  // Whether the name is still this file's; takes it away if so.
  bool has_name() const;
  void remove_name() noexcept;

 private:
  struct Header {
    std::array<char, 8> magic{};
    std::uint32_t version = 0, ranks = 0, all_came = 0, token_bytes = 0;
    std::array<char, 128> program{};
    std::array<char, 256> token{};
    std::array<char, 512> refusal{};
  };
  struct Place {
    Presence presence = Presence::absent;
    std::array<char, 124> device{}, position{};
  };
  MeetingTable(std::filesystem::path file, int descriptor) : file_(std::move(file)), fd_(descriptor) {}

  static std::int64_t offset(int rank);
  Place place(int rank) const;
  void read(std::int64_t at, void* to, std::size_t bytes) const;
  void write(std::int64_t at, const void* from, std::size_t bytes);

  std::filesystem::path file_;
  int fd_ = -1;
  Header header_;
};

}  // namespace tessera
