"""Writes the golden models: tiny random models as transformers sees them.

    python models.py OUT_DIR [CASE…]        needs torch and transformers 5.23

For each case OUT_DIR/<case>/ holds the Hugging Face directory (config.json, model.safetensors), tokens.safetensors (I32
[2, 83]), logits.safetensors, gradients.safetensors (of the mean cross-entropy over predicted tokens) and steps.json: the
losses of 20 AdamW steps on those tokens. Every tensor, norms included, has distinct random values.
"""
import json, os, sys

import torch
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen3Config, Qwen3ForCausalLM,
                          Qwen3MoeConfig, Qwen3MoeForCausalLM)

SMALL = dict(vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None, eos_token_id=None, pad_token_id=None,
             attn_implementation="eager")
LLAMA3 = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
CASES = {
    "llama_tied_scaled": (LlamaForCausalLM, LlamaConfig, dict(tie_word_embeddings=True, rope_parameters=LLAMA3, rms_norm_eps=1e-5)),
    "llama_untied_biases": (LlamaForCausalLM, LlamaConfig, dict(tie_word_embeddings=False, attention_bias=True, mlp_bias=True)),
    "llama_old_dialect": (LlamaForCausalLM, LlamaConfig, dict(tie_word_embeddings=False, head_dim=24)),
    "qwen3_untied_wide_heads": (Qwen3ForCausalLM, Qwen3Config, dict(tie_word_embeddings=False, head_dim=32)),
    "qwen3_tied": (Qwen3ForCausalLM, Qwen3Config, dict(tie_word_embeddings=True, head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=1e6))),
}
MOE = {
    "mixtral": (MixtralForCausalLM, MixtralConfig, dict(num_local_experts=8, num_experts_per_tok=2, intermediate_size=32, tie_word_embeddings=False)),
    "qwen3_moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig, dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=32,
                                                            norm_topk_prob=True, mlp_only_layers=[0], tie_word_embeddings=False)),
    # The auxiliary loss over all layers and the whole batch, as balance: global has it.
    "qwen3_moe_balanced": (Qwen3MoeForCausalLM, Qwen3MoeConfig, dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=False,
                                                                     tie_word_embeddings=True, output_router_logits=True, router_aux_loss_coef=0.1)),
}
SEEDS = {case: seed for seed, case in enumerate(sorted(CASES) + sorted(MOE), 1)}
CASES |= MOE
LEARNING_RATE, BETAS, EPSILON, DECAY, CLIP, STEPS = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0, 20


def randomize(model):
    for name, parameter in model.named_parameters():
        spread = 0.3 * torch.randn_like(parameter)
        parameter.data = 1 + spread if "norm" in name else 0.4 * spread


def loss_of(model, tokens):
    return model(input_ids=tokens, labels=tokens).loss


def old_dialect(directory):
    """Rewrites config.json as transformers 4 wrote it."""
    path = os.path.join(directory, "config.json")
    config = json.load(open(path))
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    json.dump(config, open(path, "w"), indent=2)


def release_names(case, gradients):
    """Experts are fused in memory, and apart under other names in releases: gradients take the latter."""
    block, parts = ("block_sparse_moe", ("w1", "w3", "w2")) if case == "mixtral" else ("mlp", ("gate_proj", "up_proj", "down_proj"))
    out = {}
    for name, gradient in gradients.items():
        module, dot, leaf = name.rpartition(".mlp.experts.")
        if not dot:
            out[name.replace(".mlp.gate.", f".{block}.gate.")] = gradient
        for expert, one in enumerate(gradient if dot else []):
            pieces = zip(parts, one.chunk(2)) if leaf == "gate_up_proj" else [(parts[2], one)]
            out |= {f"{module}.{block}.experts.{expert}.{part}.weight": piece.contiguous() for part, piece in pieces}
    return out


def write(case, directory):
    torch.manual_seed(SEEDS[case])
    make, config, settings = CASES[case]
    model = make(config(**SMALL | settings)).float().eval()
    randomize(model)
    os.makedirs(directory, exist_ok=True)
    model.save_pretrained(directory)
    generation = os.path.join(directory, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    if case == "llama_old_dialect":
        old_dialect(directory)
    tokens = torch.randint(0, SMALL["vocab_size"], (2, 83))
    save_file({"tokens": tokens.to(torch.int32)}, os.path.join(directory, "tokens.safetensors"))
    save_file({"logits": model(input_ids=tokens).logits.detach().contiguous()}, os.path.join(directory, "logits.safetensors"))
    loss_of(model, tokens).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    save_file(release_names(case, gradients), os.path.join(directory, "gradients.safetensors"))
    groups = [dict(params=[p for p in model.parameters() if p.dim() >= 2], weight_decay=DECAY),
              dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    json.dump(dict(losses=losses, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY, clip=CLIP),
              open(os.path.join(directory, "steps.json"), "w"), indent=1)
    print(case, f"loss {losses[0]:.4f} to {losses[-1]:.4f}")


for case in sys.argv[2:] or CASES:
    write(case, os.path.join(sys.argv[1], case))
