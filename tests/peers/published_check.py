"""Imports and publishes the golden models, and lets transformers and us compute the published models' logits.

    python published_check.py TESSERA_BINARY GOLDEN_MODELS WORK_DIR
"""
import os, subprocess, sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

binary, models, work = sys.argv[1:]
failures = 0
for case in sorted(os.listdir(models)):
    golden, checkpoint, release = (os.path.join(p, case) for p in (models, os.path.join(work, "checkpoints"), os.path.join(work, "releases")))
    os.makedirs(os.path.dirname(checkpoint), exist_ok=True)
    os.makedirs(os.path.dirname(release), exist_ok=True)
    for command in (["import", golden, checkpoint], ["publish", checkpoint, release]):
        subprocess.run([binary, *command], check=True, stdout=subprocess.DEVNULL)
    tokens = os.path.join(golden, "tokens.safetensors")
    ours = os.path.join(work, case + ".safetensors")
    subprocess.run([binary, "logits", release, "--tokens", tokens, "--out", ours], check=True, stdout=subprocess.DEVNULL)
    model = AutoModelForCausalLM.from_pretrained(release, attn_implementation="eager")
    with torch.no_grad():
        theirs = model(input_ids=load_file(tokens)["tokens"].long()).logits
    difference = (load_file(ours)["logits"] - theirs).abs().max().item()
    failures += not difference <= 1e-4
    print(f"{case}: published logits differ from transformers' by at most {difference:.2e}")
sys.exit(failures > 0)
