// Work of one stream as a CUDA graph.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <memory>

#include "core/tensor/device.h"

namespace tessera::cuda {

// What `work` gives the stream, for launches on that stream, which outlives the graph; `native` is the same
// one. `memory` is kept as long as the graph is. Throws what `work` throws, and Error where CUDA cannot
// capture it; the stream is as before then.
std::unique_ptr<Graph> capture_graph(Stream& stream, cudaStream_t native, const std::function<void()>& work,
                                     std::shared_ptr<void> memory);

}  // namespace tessera::cuda
