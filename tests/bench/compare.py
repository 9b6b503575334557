"""Runs Tessera and the peers by turns on prepared data and prints what each did and the ratios. See cpu.sh."""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

arguments = argparse.ArgumentParser()
for name in ("--tessera", "--peers", "--work", "--config"):
    arguments.add_argument(name, type=pathlib.Path, required=True)
arguments.add_argument("--rounds", type=int, default=3)
arguments = arguments.parse_args()
THREADS = 2  # the peer's default; ours is set to the same


def run(command):
    """The command's standard output, and the largest resident size it reached, in MiB."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{errors.decode()}")
    return output.decode(), usage.ru_maxrss >> 10


def train_tessera():
    for folder in ("checkpoints", "runs"):
        shutil.rmtree(arguments.work / folder, ignore_errors=True)
    _, peak = run([arguments.tessera, "train", arguments.config, f"data.train=[{{path: {arguments.work}/train.h5}}]",
                   f"train.threads={THREADS}", "train.steps=8", f"checkpoint.dir={arguments.work}/checkpoints",
                   f"log.dir={arguments.work}/runs"])
    header, *steps = map(json.loads, open(arguments.work / "runs/metrics.jsonl"))
    rates = [step["tokens_per_s"] for step in steps[1:]]
    return dict(best=max(rates), median=statistics.median(rates), peak_mib=peak, first_step_begins_s=header["startup_s"],
                first_step_ends_s=header["startup_s"] + steps[0]["step_s"])


def train_torch(*options):
    output, peak = run([sys.executable, arguments.peers / "train.py", "--threads", THREADS, *options])
    result = json.loads(output.splitlines()[-1])
    return dict(best=result["tokens_per_s"], median=result["tokens_per_s_median"], peak_mib=peak,
                first_step_ends_s=result["first_step_s"])


def tokenize_tessera():
    output, _ = run([arguments.tessera, "bench", "tokenizer", arguments.work / "tokenizer.json", arguments.work / "text",
                     "--threads", THREADS])
    return json.loads(output)


def tokenize_peer():
    output, _ = run([sys.executable, arguments.peers / "tokenize_text.py", arguments.work / "tokenizer.json",
                     arguments.work / "text"])
    return json.loads(output.splitlines()[-1])


def alternate(programs):
    """Every program once a round; the results of each."""
    results = {name: [] for name in programs}
    for _ in range(arguments.rounds):
        for name, program in programs.items():
            results[name].append(program())
            figures = "  ".join(f"{key} {value:.4g}" for key, value in results[name][-1].items())
            print(f"  {name:<16} {figures}", flush=True)
    return results


def median(results, key):
    return statistics.median(result[key] for result in results)


peers = (arguments.peers / "train.py").exists()
print(f"training 28M parameters, fp32, batch 4 x 512, {THREADS} threads: tokens/s of the best and the median step")
torch = {"torch": train_torch, "torch --compile": lambda: train_torch("--compile")}
train = alternate({"tessera": train_tessera} | (torch if peers else {}))
print("tokenizing the text, MB/s")
tokenize = alternate({"tessera": tokenize_tessera} | ({"tokenizers": tokenize_peer} if peers else {}))
if not peers:
    print(f"no peers in '{arguments.peers}': nothing to compare with")
    sys.exit()

ours = train.pop("tessera")
least = min(median(results, "peak_mib") for results in train.values())
print(f"ratios of the medians over {arguments.rounds} rounds (tessera / the better peer):")
for key in ("best", "median"):
    print(f"  tokens/s, {key} step       {median(ours, key) / max(median(r, key) for r in train.values()):.2f}   (to reach: 1.0)")
print(f"  peak memory              {median(ours, 'peak_mib') / least:.2f}   (at most: 0.7)")
print(f"  first step begins after  {median(ours, 'first_step_begins_s'):.2f} s (at most: 1)")
print(f"  tokenizing               {median(tokenize['tessera'], 'mb_per_s') / median(tokenize['tokenizers'], 'mb_per_s'):.2f}   (to reach: 3)")
