#include "launch/version.h"

namespace tessera {

const char* const version = TESSERA_VERSION;

}  // namespace tessera
