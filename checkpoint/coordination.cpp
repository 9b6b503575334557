#include "checkpoint/coordination.h"

namespace tessera {
namespace {

class Alone : public Coordination {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::vector<std::string> gather_text(const std::string& text) override { return {text}; }
  std::string broadcast_text(const std::string& text) override { return text; }
  bool agree(bool ok) override { return ok; }
};

}  // namespace

Coordination& alone() {
  static Alone instance;
  return instance;
}

}  // namespace tessera
