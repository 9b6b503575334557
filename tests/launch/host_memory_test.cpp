// What the operating system says of memory, from files laid out as it lays them out.
#include "launch/host_memory.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/data/temporary.h"

namespace tessera {
namespace {

class HostMemory : public testing::Test {
 protected:
  HostMemory() { put("proc/meminfo", "MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:    8000 kB\n"); }

  void put(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((folder / path).parent_path());
    std::ofstream(folder / path) << text;
  }
  void put_v1(const std::string& group, const std::string& limit, int usage, int files) const {
    const std::string at = "sys/fs/cgroup/memory" + group + "/memory.";
    put(at + "limit_in_bytes", limit + "\n");
    put(at + "usage_in_bytes", std::to_string(usage) + "\n");
    put(at + "stat", "cache 1\ntotal_inactive_file " + std::to_string(files) + "\ntotal_active_file 1\n");
  }
  void put_v2(const std::string& group, const std::string& limit, int usage, int files) const {
    const std::string at = "sys/fs/cgroup" + group + "/memory.";
    put(at + "max", limit + "\n");
    put(at + "current", std::to_string(usage) + "\n");
    put(at + "stat", "anon 5\ninactive_file " + std::to_string(files) + "\nactive_file 1\n");
  }
  void expect(std::size_t bytes, const std::string& bound) const {
    const MemoryRoom room = node_memory(folder.path());
    EXPECT_EQ(room.bytes, bytes);
    EXPECT_EQ(room.bound, bound);
  }

  const std::string v1_mount =
      "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory\n"
      "36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n";
  const std::string v2_mount =
      "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
  TemporaryFolder folder;
};

TEST_F(HostMemory, OfANodeWithoutGroups) {
  expect(8000 * 1024, "free memory");
  put("proc/self/cgroup", "0::/\n");
  put("proc/self/mountinfo", v2_mount);
  expect(8000 * 1024, "free memory");
}

// A job's own group has no limit of its own; the one above it does.
TEST_F(HostMemory, OfVersionTwoGroupsUpTheHierarchy) {
  put("proc/self/cgroup", "0::/slurm/job_7/step_0\n");
  put("proc/self/mountinfo", v2_mount);
  put_v2("/slurm/job_7/step_0", "max", 900, 0);
  put_v2("/slurm/job_7", "100000", 7000, 500);
  put_v2("/slurm", "200000", 7000, 500);
  expect(100000 - (7000 - 501), "memory.max of /slurm/job_7");
  put_v2("/slurm", "20000", 19000, 500);
  expect(20000 - (19000 - 501), "memory.max of /slurm");
  put_v2("", "1000", 19000, 0);
  expect(0, "memory.max of /");
}

TEST_F(HostMemory, OfVersionOneGroups) {
  put("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/box/a\n0::/elsewhere\n");
  put("proc/self/mountinfo", v1_mount);
  put_v1("/box/a", "9223372036854771712", 900, 0);
  put_v1("/box", "50000", 10000, 99);
  put_v1("", "9223372036854771712", 900, 0);
  expect(50000 - (10000 - 100), "memory.limit_in_bytes of /box");
}

// In a container the mount shows the container's group as the root, under the node's name for it or none.
TEST_F(HostMemory, OfAContainer) {
  put("proc/self/mountinfo", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  put_v1("", "60000", 0, 0);
  for (const char* path : {"/docker/abc", "/docker/abc/inner", "/../..", "/other"}) {
    put("proc/self/cgroup", std::string("4:memory:") + path + "\n");
    expect(60000, "memory.limit_in_bytes of /");
  }
}

}  // namespace
}  // namespace tessera
