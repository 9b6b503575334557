#include "core/ops/expert_load.h"

namespace tessera {

Kernel<CombineLoadsArgs>& combine_loads_kernel() {
  static Kernel<CombineLoadsArgs> slot("combine_loads");
  return slot;
}
Kernel<GlobalBalanceArgs>& global_balance_kernel() {
  static Kernel<GlobalBalanceArgs> slot("global_balance");
  return slot;
}
Kernel<MoveBiasesArgs>& move_biases_kernel() {
  static Kernel<MoveBiasesArgs> slot("move_biases");
  return slot;
}

}  // namespace tessera
