#include "kernels/cuda/native/graph.h"

#include <utility>

#include "kernels/cuda/native/check.h"

namespace tessera::cuda {
namespace {

class CudaGraph : public Graph {
 public:
  CudaGraph(cudaStream_t stream, cudaGraph_t graph, std::shared_ptr<void> memory)
      : stream_(stream), memory_(std::move(memory)) {
    const cudaError_t error = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "making a graph");
    check(cudaGraphUpload(graph_, stream_), "sending a graph to the GPU");
  }
  ~CudaGraph() override {
    cudaStreamSynchronize(stream_);  // it may be at work, and its memory is about to be others'
    cudaGraphExecDestroy(graph_);
  }
  void launch() override { check(cudaGraphLaunch(graph_, stream_), "launching a graph"); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t graph_ = nullptr;
  std::shared_ptr<void> memory_;
};

}  // namespace

std::unique_ptr<Graph> capture_graph(cudaStream_t stream, const std::function<void()>& work,
                                     std::shared_ptr<void> memory) {
  // Relaxed: allocations may ask the driver for memory meanwhile, on this thread and on those of other ranks.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "beginning to capture a graph");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();  // not an error of what comes next
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph), "capturing a graph");
  return std::make_unique<CudaGraph>(stream, graph, std::move(memory));
}

}  // namespace tessera::cuda
