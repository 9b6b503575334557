#include "kernels/cuda/native/graph.h"

#include <utility>

#include "kernels/cuda/native/check.h"

namespace tessera::cuda {
namespace {

class CudaGraph : public Graph {
 public:
  CudaGraph(Stream& stream, cudaStream_t native, cudaGraph_t graph, std::shared_ptr<void> memory)
      : stream_(stream), native_(native), memory_(std::move(memory)) {
    const cudaError_t error = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "making a graph");
    check(cudaGraphUpload(graph_, native_), "sending a graph to the GPU");
  }
  ~CudaGraph() override {
    stream_.drain();  // it may be at work, and its memory is about to be others'
    cudaGraphExecDestroy(graph_);
  }
  void launch() override { check(cudaGraphLaunch(graph_, native_), "launching a graph"); }

 private:
  Stream& stream_;
  cudaStream_t native_;
  cudaGraphExec_t graph_ = nullptr;
  std::shared_ptr<void> memory_;
};

}  // namespace

std::unique_ptr<Graph> capture_graph(Stream& stream, cudaStream_t native, const std::function<void()>& work,
                                     std::shared_ptr<void> memory) {
  // Relaxed: allocations may ask the driver for memory meanwhile, on this thread and on those of other ranks.
  check(cudaStreamBeginCapture(native, cudaStreamCaptureModeRelaxed), "beginning to capture a graph");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(native, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();  // not an error of what comes next
    throw;
  }
  check(cudaStreamEndCapture(native, &graph), "capturing a graph");
  return std::make_unique<CudaGraph>(stream, native, graph, std::move(memory));
}

}  // namespace tessera::cuda
