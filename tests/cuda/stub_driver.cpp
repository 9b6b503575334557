// A CUDA driver that does nothing and says that it did: what cuDNN asks of one while it plans without a GPU.
// Loaded before cuDNN, it goes by libcuda.so.1. Nothing can run with it.

extern "C" {

int cuLibraryLoadData(void** library) {
  static int made;
  *library = &made;
  return 0;
}
int cuLibraryGetKernel(void** kernel) {
  static int made;
  *kernel = &made;
  return 0;
}
int cuKernelGetFunction(void** function) {
  static int made;
  *function = &made;
  return 0;
}

// cuDNN only sees that these are there.
#define NOTHING(name) \
  int name() {        \
    return 0;         \
  }
NOTHING(cuCtxGetCurrent)
NOTHING(cuCtxGetLimit)
NOTHING(cuCtxPopCurrent)
NOTHING(cuCtxPushCurrent)
NOTHING(cuDeviceGet)
NOTHING(cuDeviceGetCount)
NOTHING(cuDriverGetVersion)
NOTHING(cuFuncSetAttribute)
NOTHING(cuGetErrorName)
NOTHING(cuGetErrorString)
NOTHING(cuKernelGetAttribute)
NOTHING(cuKernelSetAttribute)
NOTHING(cuLaunchCooperativeKernel)
NOTHING(cuLaunchKernel)
NOTHING(cuLaunchKernelEx)
NOTHING(cuLibraryLoadFromFile)
NOTHING(cuLibraryUnload)
NOTHING(cuLinkAddData)
NOTHING(cuLinkComplete)
NOTHING(cuLinkCreate)
NOTHING(cuLinkDestroy)
NOTHING(cuOccupancyMaxPotentialClusterSize)
NOTHING(cuStreamGetCtx)
#undef NOTHING

}  // extern "C"
