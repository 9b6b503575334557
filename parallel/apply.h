// Installs the techniques that a mesh asks for in a model's seams, in one fixed order: tensor and sequence
// parallel reshards, the vocabulary-parallel loss, context-parallel attention, experts.
//
// What is installed refers to the mesh's groups, which outlive the model. Not collective; the model's calls
// then are.
#pragma once

#include "core/nn/model.h"
#include "core/nn/moe.h"
#include "parallel/context.h"
#include "parallel/mesh.h"

namespace tessera {

// The place on the mesh that a model of this rank is built for.
ModelPlace model_place(const Mesh& mesh);

void apply_mesh(Model& model, const Mesh& mesh, const ParallelLayout& layout);

}  // namespace tessera
