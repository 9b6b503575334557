#include "kernels/cuda/native/cudnn.h"

#include <cudnn_frontend.h>
#include <dlfcn.h>
#include <fmt/core.h>

#include <cassert>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/base/error.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // declared by the headers, which call through it
}

namespace tessera::cuda {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using Node = std::shared_ptr<fe::graph::Tensor_attributes>;

constexpr std::size_t oldest = 91900;

std::string version_text(std::size_t version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

void open_library() {
  static std::once_flag once;
  std::call_once(once, [] {
    fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (fe::cudnn_dlhandle == nullptr)
      fail(
          "attention needs cuDNN 9: {}; install libcudnn9-cuda-13 or set LD_LIBRARY_PATH, or use `kernels: "
          "{{attention_forward: plain, attention_backward: plain}}`, which is slow",
          dlerror());
    // cudnn-frontend opens a CUDA runtime of its own, and would take one of another version first.
    setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", "libcudart.so.13", 0);
    if (dlopen(std::getenv("CUDNN_FRONTEND_CUDART_LIB_NAME"), RTLD_NOW | RTLD_LOCAL) == nullptr)
      fail("attention needs the CUDA runtime: {}; add CUDA's lib64 to LD_LIBRARY_PATH", dlerror());
  });
  const std::size_t version = fe::detail::get_backend_version();
  if (version < oldest)
    fail("cuDNN {} has faults in attention; install {} or newer", version_text(version),
         version_text(oldest));
}

void check(fe::error_t error, const std::string& doing) {
  if (error.is_good()) return;
  // Its text goes on with every engine's reasons, a line each.
  const std::string text = error.get_message();
  fail("cuDNN {}: {}: {}", version_text(fe::detail::get_backend_version()), doing,
       text.substr(0, text.find('\n')));
}

enum Uid : std::int64_t {
  uid_q = 1,
  uid_k,
  uid_v,
  uid_doc,
  uid_out,
  uid_lse,
  uid_dout,
  uid_dq,
  uid_dk,
  uid_dv
};

// A problem as a graph: dimensions are [row, head, position, element] whatever the strides.
class GraphOf {
 public:
  // `sm` says for which GPU, which nodes ask the current device else.
  GraphOf(const AttentionProblem& problem, int sm) : n_(problem) {
    graph_->set_sm_version(sm)
        .set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    q_ = input("q", uid_q, n_.heads, n_.queries, n_.q);
    k_ = input("k", uid_k, n_.kv_heads, n_.keys, n_.k);
    v_ = input("v", uid_v, n_.kv_heads, n_.keys, n_.v);
    if (n_.documents) {
      doc_ = graph_->tensor(fe::graph::Tensor_attributes()
                                .set_name("doc_start")
                                .set_uid(uid_doc)
                                .set_data_type(fe::DataType_t::INT32));
      doc_->set_dim({n_.batch, 1, n_.queries, 1})
          .set_stride({n_.document_row, n_.document_row, n_.document_position, 1});
    }
    n_.backward ? add_backward() : add_forward();
  }
  std::shared_ptr<Graph> graph() const { return graph_; }

 private:
  Node shape(const Node& node, std::int64_t heads, std::int64_t length, const AttentionStrides& at) const {
    node->set_dim({n_.batch, heads, length, n_.head_size}).set_stride({at.row, at.head, at.position, 1});
    return node;
  }
  Node input(const char* name, Uid uid, std::int64_t heads, std::int64_t length, const AttentionStrides& at) {
    return shape(graph_->tensor(fe::graph::Tensor_attributes().set_name(name).set_uid(uid)), heads, length,
                 at);
  }
  void output(const Node& node, Uid uid, std::int64_t heads, std::int64_t length,
              const AttentionStrides& at) {
    shape(node, heads, length, at)->set_output(true).set_uid(uid);
  }
  // Packed: what backward plans take, before 9.26.
  Node shape_lse(const Node& node) const {
    node->set_data_type(fe::DataType_t::FLOAT)
        .set_uid(uid_lse)
        .set_dim({n_.batch, n_.heads, n_.queries, 1})
        .set_stride({n_.heads * n_.queries, n_.queries, 1, 1});
    return node;
  }

  // cuDNN's own band where that is the whole mask; it skips what the band leaves out.
  template <class Options>
  void set_mask(Options& options) {
    options.set_attn_scale(n_.scale);
    if (n_.documents) {
      options.set_score_mod(
          [this](const std::shared_ptr<Graph>& graph, const Node& score) { return masked(*graph, score); });
      return;
    }
    options.set_diagonal_alignment(n_.queries == n_.keys ? fe::DiagonalAlignment_t::TOP_LEFT
                                                         : fe::DiagonalAlignment_t::BOTTOM_RIGHT);
    options.set_diagonal_band_right_bound(0);
    // Its bound leaves out the key that far to the left, as our window does.
    if (n_.window > 0) options.set_diagonal_band_left_bound(static_cast<int>(n_.window));
  }

  // score where key ≤ position, key > position − window and key ≥ doc_start[query]; far below others
  // elsewhere. Far, but finite: a row's first tiles may be masked whole, and −∞ − −∞ is no number.
  Node masked(Graph& graph, const Node& score) const {
    using fe::PointwiseMode_t;
    const auto integer = fe::DataType_t::INT32;
    const auto index = [&](int axis) {
      Node node = graph.pointwise(score, fe::graph::Pointwise_attributes()
                                             .set_mode(PointwiseMode_t::GEN_INDEX)
                                             .set_axis(axis)
                                             .set_compute_data_type(integer));
      node->set_data_type(integer);
      return node;
    };
    const auto shifted = [&](const Node& x, std::int64_t by) {
      if (by == 0) return x;
      const auto constant = std::make_shared<fe::graph::Tensor_attributes>(static_cast<std::int32_t>(by));
      Node node = graph.pointwise(
          x, constant,
          fe::graph::Pointwise_attributes().set_mode(PointwiseMode_t::ADD).set_compute_data_type(integer));
      node->set_data_type(integer);
      return node;
    };
    const auto keep = [&](const Node& x, const Node& a, PointwiseMode_t compare, const Node& b) {
      Node sees = graph.pointwise(
          a, b,
          fe::graph::Pointwise_attributes().set_mode(compare).set_compute_data_type(fe::DataType_t::BOOLEAN));
      sees->set_data_type(fe::DataType_t::BOOLEAN);
      const auto low = std::make_shared<fe::graph::Tensor_attributes>(-1e30F);
      return graph.pointwise(x, low, sees,
                             fe::graph::Pointwise_attributes().set_mode(PointwiseMode_t::BINARY_SELECT));
    };
    const Node position = shifted(index(2), n_.keys - n_.queries);
    const Node key = index(3);
    Node y = keep(score, position, PointwiseMode_t::CMP_GE, key);
    if (n_.window > 0) y = keep(y, shifted(key, n_.window), PointwiseMode_t::CMP_GT, position);
    return keep(y, key, PointwiseMode_t::CMP_GE, doc_);
  }

  void add_forward() {
    auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true);
    options.set_implementation(fe::AttentionImplementation_t::COMPOSITE);
    set_mask(options);
    const auto [out, lse] = graph_->sdpa(q_, k_, v_, options);
    output(out, uid_out, n_.heads, n_.queries, n_.out);
    shape_lse(lse)->set_output(true);
  }

  void add_backward() {
    auto options = fe::graph::SDPA_backward_attributes().set_name("attention_backward");
    options.set_deterministic_algorithm(n_.deterministic);
    set_mask(options);
    // Probabilities of masked scores are zero, and so are their gradients already.
    if (n_.documents)
      options.set_score_mod_bprop(
          [](const std::shared_ptr<Graph>&, const Node& gradient) { return gradient; });
    const Node out = input("out", uid_out, n_.heads, n_.queries, n_.out);
    const Node dout = input("dout", uid_dout, n_.heads, n_.queries, n_.out);
    const Node lse = shape_lse(graph_->tensor(fe::graph::Tensor_attributes().set_name("lse")));
    const auto [dq, dk, dv] = graph_->sdpa_backward(q_, k_, v_, out, dout, lse, options);
    output(dq, uid_dq, n_.heads, n_.queries, n_.out);
    output(dk, uid_dk, n_.kv_heads, n_.keys, n_.gradients);
    output(dv, uid_dv, n_.kv_heads, n_.keys, n_.gradients);
  }

  AttentionProblem n_;
  std::shared_ptr<Graph> graph_ = std::make_shared<Graph>();
  Node q_, k_, v_, doc_;
};

class Plan : public AttentionPlan {
 public:
  Plan(cudnnHandle_t handle, std::shared_ptr<Graph> graph, const AttentionProblem& problem)
      : handle_(handle), graph_(std::move(graph)), problem_(problem) {
    std::int64_t bytes = 0;
    check(graph_->get_workspace_size(bytes), "sizing " + problem.text());
    bytes_ = static_cast<std::size_t>(bytes);
  }
  std::size_t workspace_bytes() const override { return bytes_; }
  void run(const AttentionTensors& t, void* workspace) const override {
    assert(handle_ != nullptr && "a plan for a described GPU cannot run");
    std::unordered_map<std::int64_t, void*> addresses{{uid_q, const_cast<void*>(t.q)},
                                                      {uid_k, const_cast<void*>(t.k)},
                                                      {uid_v, const_cast<void*>(t.v)},
                                                      {uid_out, t.out},
                                                      {uid_lse, t.lse}};
    if (problem_.documents) addresses[uid_doc] = const_cast<void*>(t.doc_start);
    if (problem_.backward) {
      addresses[uid_dout] = const_cast<void*>(t.dout);
      addresses[uid_dq] = t.dq;
      addresses[uid_dk] = t.dk;
      addresses[uid_dv] = t.dv;
    }
    check(graph_->execute(handle_, addresses, workspace), "running " + problem_.text());
  }

 private:
  cudnnHandle_t handle_;
  std::shared_ptr<Graph> graph_;
  AttentionProblem problem_;
  std::size_t bytes_ = 0;
};

}  // namespace

struct Cudnn::State {
  ~State() {
    if (handle != nullptr) fe::detail::destroy_handle(handle);
  }
  int sm = 0;
  cudnnHandle_t handle = nullptr;
  std::shared_ptr<fe::DeviceProperties> described;  // where there is no handle
};

Cudnn::Cudnn(int sm, cudaStream_t stream) : state_(std::make_unique<State>()) {
  open_library();
  state_->sm = sm;
  const auto checked = [](cudnnStatus_t status, const char* doing) {
    if (status != CUDNN_STATUS_SUCCESS) fail("cuDNN: {}: {}", doing, fe::detail::get_error_string(status));
  };
  checked(fe::detail::create_handle(&state_->handle), "starting");
  checked(fe::detail::set_stream(state_->handle, stream), "choosing its stream");
}

Cudnn::Cudnn(int sm, const std::string& description) : state_(std::make_unique<State>()) {
  open_library();
  state_->sm = sm;
  state_->described = std::make_shared<fe::DeviceProperties>();
  check(state_->described->deserialize({description.begin(), description.end()}),
        "reading a GPU's description");
}

Cudnn::~Cudnn() = default;

std::string Cudnn::version() const {
  return version_text(fe::detail::get_backend_version());
}

std::unique_ptr<AttentionPlan> Cudnn::plan(const AttentionProblem& problem) const {
  const GraphOf described(problem, state_->sm);  // its masks are asked for while the graph is built
  const std::shared_ptr<Graph> graph = described.graph();
  const std::string doing = "planning " + problem.text();
  if (state_->described != nullptr) graph->set_device_properties(state_->described);
  check(graph->validate(), doing);
  check(graph->build_operation_graph(state_->handle), doing);
  check(graph->create_execution_plans({fe::HeurMode_t::A}), doing);
  check(graph->check_support(), doing);
  check(graph->build_plans(), doing);
  return std::make_unique<Plan>(state_->handle, graph, problem);
}

}  // namespace tessera::cuda
