// Short runs of a small model on thread ranks, recorded whole: what `verify` compares.
//
// The batch is drawn from a seed and the same for every layout; so are the first weights, which include
// random norms and biases, lest a fault hide behind ones and zeros. Functions return when all ranks have
// ended; any thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "parallel/engine.h"

namespace tessera::verify {

// What is trained, whatever the layout.
struct Subject {
  ModelSpec spec;
  ModelOptions model;
  BatchShape batch;
  std::int64_t reduce_groups = 1;
  bool document_mask = false;
  // > 0: documents also begin where pieces of so many tokens do, and some sequences are one document.
  std::int64_t piece = 0;
  AdamWOptions optimizer;
  double lr = 1e-3;
  double clip = 1;
  std::uint64_t seed = 1;
  int steps = 3;
};

// A tensor's values, put together from the ranks' parts.
struct Whole {
  Shape shape;
  std::vector<float> values;
};
using Tensors = std::map<std::string, Whole>;

// What tokens of the first steps chose: by layer and microbatch of the run, I32 [tokens, k] in order.
using Choices = std::map<std::pair<std::string, std::int64_t>, std::vector<std::int32_t>>;

// A token that would have gone elsewhere under the layout: what it chose, by how much it scored higher.
struct OtherChoice {
  std::string layer;
  std::int64_t microbatch = 0, token = 0;
  double gap = 0;  // between the scores of the experts that changed places
};

// What a run did.
struct Record {
  std::vector<double> losses, norms, balances;  // by step
  Tensors activations;             // of the first step: residual stream after each cell, by microbatch
  Tensors gradients;               // of the first step, before clipping
  Tensors updated, weights;        // after the first step, after the last
  std::vector<std::string> order;  // activations and tensors, as forward meets them
  Choices choices;
  std::vector<OtherChoice> other_choices;
  Tensors first_weights;                         // as ranks hold them before the first step
  std::map<std::string, std::string> uncovered;  // tensors with elements that no rank, or two, speak for
  std::vector<std::string> disagreed;            // tensors of which two ranks then held different values
  // What forward computes with in the first two steps, as all ranks see it, and where two see different
  // values.
  Tensors used[2];
  std::vector<std::string> disagreed_use[2];
  // By microbatch of the run: what is wrong in what a rank was given of it.
  std::map<std::int64_t, std::string> batch_faults;
  // Where rows found no room in experts' buffers, and so the run ended: what each rank says of it.
  std::vector<std::string> overflows;
  std::vector<std::size_t> peak_bytes;                           // by rank, after set-up
  std::vector<std::map<std::string, std::uint64_t>> bytes_sent;  // by rank: "tp all_gather" and its like
};

// Sample `ordinal` of the seeded stream; documents of random length where they are masked.
Sample draw_sample(const Subject& subject, std::uint64_t ordinal);

// First weights of a run: as initialisers draw them, and a little more everywhere, so that none is 0 or 1.
void draw_weights(const Subject& subject, Engine& engine);

// Where ranks run: on CPUs, exchanging host memory, unless told.
struct Place {
  std::function<std::unique_ptr<Device>(int rank)> make_device;
  std::function<std::unique_ptr<ProcessGroup>(ProcessGroup& host, Device& device)> make_group;
};
// Ranks share what devices of the kind there are.
Place place_on(DeviceKind kind);

// `replay`: choices that tokens are made to repeat, null: they choose. Throws Error if the layout does not
// fit.
Record run(const Subject& subject, const ParallelLayout& layout, const Choices* replay = nullptr,
           const Place& place = {});

}  // namespace tessera::verify
