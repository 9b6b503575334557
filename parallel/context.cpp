#include "parallel/context.h"

#include "core/autograd/tape.h"
#include "core/base/mutant.h"
#include "core/ops/attention.h"
#include "core/tensor/elementwise.h"

namespace tessera {
namespace {

// Part of a rank's tensor [B, 2 pieces, n, d] or of the whole [B, S, n, d], and where the two belong
// together.
struct Piece {
  std::int64_t local, global, length;
};

std::vector<Piece> pieces_of(std::int64_t local_length, int rank, int ranks) {
  std::vector<Piece> pieces;
  std::int64_t at = 0;
  for (const PositionRange& range : positions_of(local_length * ranks, rank, ranks)) {
    pieces.push_back({at, range.begin, range.end - range.begin});
    at += range.end - range.begin;
  }
  return pieces;
}

Shape resized(Shape shape, int dim, std::int64_t size) {
  shape[dim] = size;
  return shape;
}

// The ranks' shares of a sequence, in its order.
Tensor assemble(std::span<const Tensor> shares) {
  const auto ranks = static_cast<int>(shares.size());
  const std::int64_t local = shares[0].size(1);
  Tensor whole =
      Tensor::empty(resized(shares[0].shape(), 1, local * ranks), shares[0].dtype(), shares[0].device());
  for (int r = 0; r < ranks; ++r)
    for (const Piece& p : pieces_of(local, r, ranks))
      copy_view(shares[static_cast<std::size_t>(r)].narrow(1, p.local, p.length),
                whole.narrow(1, p.global, p.length));
  return whole;
}

// The inverse: each rank's share of a whole sequence, contiguous.
std::vector<Tensor> take_apart(const Tensor& whole, int ranks) {
  const std::int64_t local = whole.size(1) / ranks;
  std::vector<Tensor> shares;
  for (int r = 0; r < ranks; ++r) {
    shares.push_back(Tensor::empty(resized(whole.shape(), 1, local), whole.dtype(), whole.device()));
    for (const Piece& p : pieces_of(local, r, ranks))
      copy_view(whole.narrow(1, p.global, p.length), shares.back().narrow(1, p.local, p.length));
  }
  return shares;
}

std::vector<Tensor> empty_shares(const Shape& shape, DType dtype, Device& device, int ranks) {
  std::vector<Tensor> shares;
  for (int r = 0; r < ranks; ++r) shares.push_back(Tensor::empty(shape, dtype, device));
  return shares;
}

Tensor gather_sequence(const Tensor& x, ProcessGroup& group) {
  const Tensor mine = contiguous_copy(x);
  const auto shares = empty_shares(x.shape(), x.dtype(), x.device(), group.size());
  group.all_gather(shares, mine);
  return assemble(shares);
}

// The dual: sums every rank's gradient of the whole, and keeps this rank's share.
Tensor scatter_sequence(const Tensor& whole, ProcessGroup& group) {
  const std::vector<Tensor> shares = take_apart(whole, group.size());
  Tensor mine = Tensor::empty(shares[0].shape(), whole.dtype(), whole.device());
  if (mutant("kv_gradient_not_summed"))
    mine.copy_from(shares[static_cast<std::size_t>(group.rank())]);
  else
    group.reduce_scatter(mine, shares);
  return mine;
}

struct Query {
  Tensor q, k, v, doc_start;
  float scale;
  std::int64_t window;
};

// Attention of one piece of this rank's queries to the keys up to its end.
AttentionInputs inputs_of(const Query& in, const Piece& piece, const Tensor& keys, const Tensor& values) {
  const std::int64_t end = piece.global + piece.length;
  const bool wider = mutant("window_off_by_one") || (mutant("window_off_by_one_in_last_piece") &&
                                                     piece.local > 0 && in.window < piece.length);
  const bool narrower = mutant("window_short_across_pieces") && in.window > piece.length && piece.global > 0;
  const std::int64_t first_row = mutant("document_starts_of_first_piece") ? 0 : piece.local;
  return {in.q.narrow(1, piece.local, piece.length),
          keys.narrow(1, 0, end),
          values.narrow(1, 0, end),
          in.doc_start.defined() && !mutant("mask_lost") ? in.doc_start.narrow(1, first_row, piece.length)
                                                         : Tensor(),
          in.scale,
          in.window > 0 && wider ? in.window + 1
          : narrower             ? in.window - 1
                                 : in.window};
}

// Keys and values come to every rank, in backward once more.
Tensor gathered_attention(const Query& recorded, ProcessGroup& group) {
  const Query in{recorded.q.detach(), recorded.k.detach(), recorded.v.detach(),
                 recorded.doc_start,  recorded.scale,      recorded.window};
  Device& device = in.q.device();
  const auto pieces = pieces_of(in.q.size(1), group.rank(), group.size());
  std::vector<Tensor> outs;
  std::vector<Tensor> lses;
  Tensor joined = Tensor::empty(in.q.shape(), in.q.dtype(), device);
  {
    const Tensor keys = gather_sequence(in.k, group);
    const Tensor values = gather_sequence(in.v, group);
    for (const Piece& piece : pieces) {
      const AttentionInputs args = inputs_of(in, piece, keys, values);
      outs.push_back(Tensor::empty(args.q.shape(), args.q.dtype(), device));
      lses.push_back(Tensor::empty({args.q.size(0), args.q.size(2), args.q.size(1)}, DType::f32, device));
      attention_forward_kernel()({args, outs.back(), lses.back()}, device);
      copy_view(outs.back(), joined.narrow(1, piece.local, piece.length));
    }
  }
  const auto run_backward = [in, pieces, outs, lses, &group](std::span<const Tensor> g,
                                                             const BackwardContext&) {
    Device& on = in.q.device();
    const Tensor keys = gather_sequence(in.k, group);
    const Tensor values = gather_sequence(in.v, group);
    const Tensor dq = Tensor::empty(in.q.shape(), in.q.dtype(), on);
    const Tensor dk = Tensor::zeros(keys.shape(), keys.dtype(), on);
    const Tensor dv = Tensor::zeros(values.shape(), values.dtype(), on);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const Piece& piece = pieces[i];
      const AttentionInputs args = inputs_of(in, piece, keys, values);
      const Tensor dout = contiguous_copy(g[0].narrow(1, piece.local, piece.length));
      const Tensor dq_piece = Tensor::empty(args.q.shape(), dq.dtype(), on);
      const Tensor dk_piece = Tensor::empty(args.k.shape(), dk.dtype(), on);
      const Tensor dv_piece = Tensor::empty(args.v.shape(), dv.dtype(), on);
      attention_backward_kernel()({args, outs[i], lses[i], dout, dq_piece, dk_piece, dv_piece}, on);
      copy_view(dq_piece, dq.narrow(1, piece.local, piece.length));
      add_view(dk_piece, dk.narrow(1, 0, dk_piece.size(1)));
      add_view(dv_piece, dv.narrow(1, 0, dv_piece.size(1)));
    }
    return std::vector<Tensor>{dq, scatter_sequence(dk, group), scatter_sequence(dv, group)};
  };
  const Tensor inputs[] = {recorded.q, recorded.k, recorded.v};
  if (needs_record(inputs, false)) {
    Tensor* outputs[] = {&joined};
    record("gathered_attention", inputs, outputs, run_backward);
  }
  return joined;
}

// Heads [begin, end) of a tensor that rank r works on.
struct HeadRange {
  std::int64_t begin = 0, end = 0;
};

// With `heads` of them queries', a rank works on an equal share, and on the KV heads that those read: where
// there are fewer KV heads than ranks, neighbours get the same one.
std::vector<HeadRange> head_ranges(std::int64_t heads, std::int64_t of, int ranks) {
  std::vector<HeadRange> ranges;
  const std::int64_t share = heads / ranks;
  for (std::int64_t r = 0; r < ranks; ++r)
    ranges.push_back({r * share * of / heads, ((r + 1) * share - 1) * of / heads + 1});
  return ranges;
}

// All heads of this rank's positions to this rank's heads of all positions.
Tensor to_heads(const Tensor& x, const std::vector<HeadRange>& ranges, ProcessGroup& group) {
  std::vector<Tensor> sent;
  for (const HeadRange& range : ranges)
    sent.push_back(contiguous_copy(x.narrow(2, range.begin, range.end - range.begin)));
  const HeadRange& mine = ranges[static_cast<std::size_t>(group.rank())];
  const auto received =
      empty_shares(resized(x.shape(), 2, mine.end - mine.begin), x.dtype(), x.device(), group.size());
  group.all_to_all(received, sent);
  return assemble(received);
}

// The dual: what several ranks have for one head adds up.
Tensor to_positions(const Tensor& y, const std::vector<HeadRange>& ranges, std::int64_t heads,
                    ProcessGroup& group) {
  const std::vector<Tensor> sent = take_apart(y, group.size());
  std::vector<Tensor> received;
  for (const HeadRange& range : ranges)
    received.push_back(
        Tensor::empty(resized(sent[0].shape(), 2, range.end - range.begin), y.dtype(), y.device()));
  group.all_to_all(received, sent);
  Tensor x = Tensor::zeros(resized(sent[0].shape(), 2, heads), y.dtype(), y.device());
  for (std::size_t r = 0; r < ranges.size(); ++r)
    (mutant("shared_head_overwritten") ? copy_view : add_view)(
        received[r], x.narrow(2, ranges[r].begin, ranges[r].end - ranges[r].begin));
  return x;
}

Tensor exchange_heads(const Tensor& x, const std::vector<HeadRange>& ranges, ProcessGroup& group) {
  return record_move(
      "exchange_heads", x, to_heads(x.detach(), ranges, group),
      [ranges, heads = x.size(2), &group](const Tensor& g) { return to_positions(g, ranges, heads, group); });
}

Tensor exchange_positions(const Tensor& y, const std::vector<HeadRange>& ranges, std::int64_t heads,
                          ProcessGroup& group) {
  return record_move("exchange_positions", y, to_positions(y.detach(), ranges, heads, group),
                     [ranges, &group](const Tensor& g) { return to_heads(g, ranges, group); });
}

Tensor ulysses_attention(const Query& in, ProcessGroup& group) {
  const std::int64_t heads = in.q.size(2);
  const auto query_heads = head_ranges(heads, heads, group.size());
  const auto kv_heads = head_ranges(heads, in.k.size(2), group.size());
  Tensor doc_start;
  if (in.doc_start.defined() && !mutant("ulysses_mask_lost")) {
    const Shape flat = in.doc_start.shape();
    const Tensor whole = gather_sequence(in.doc_start.view({flat[0], flat[1], 1, 1}), group);
    doc_start = whole.view({whole.size(0), whole.size(1)});
  }
  const Tensor q = exchange_heads(in.q, query_heads, group);  // [B, S, nh / cp, dh]
  const Tensor k = exchange_heads(in.k, kv_heads, group);
  const Tensor v = exchange_heads(in.v, kv_heads, group);
  const Tensor mixed = attention(q, k, v, doc_start, in.scale, in.window);
  return exchange_positions(mixed.view(q.shape()), query_heads, heads, group);
}

}  // namespace

std::vector<PositionRange> positions_of(std::int64_t length, int rank, int ranks) {
  if (ranks == 1) return {{0, length}};
  const std::int64_t piece = length / (2 * ranks);
  const std::int64_t last = 2 * ranks - 1 - rank;
  return {{rank * piece, (rank + 1) * piece}, {last * piece, (last + 1) * piece}};
}

SequenceMixer context_mixer(ContextMethod method, ProcessGroup& group) {
  return [method, &group](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& doc_start,
                          float scale, std::int64_t window) {
    const Query in{q, k, v, doc_start, scale, window};
    const Tensor mixed =
        method == ContextMethod::ulysses ? ulysses_attention(in, group) : gathered_attention(in, group);
    return mixed.view({q.size(0), q.size(1), q.size(2) * q.size(3)});
  };
}

}  // namespace tessera
