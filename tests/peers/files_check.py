"""Lets h5py, tensorboard, jsonschema and safetensors read the files that a run leaves.

    python files_check.py TESSERA_BINARY CONFIGS_DIR WORK_DIR
"""
import glob, json, os, subprocess, sys

import h5py, jsonschema, numpy, yaml
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

binary, configs, work = sys.argv[1:]
os.makedirs(work, exist_ok=True)
os.chdir(work)


def tessera(*arguments):
    done = subprocess.run([binary, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"tessera {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


text = "\n\n".join(f"document {i}: " + "some words " * (i % 7) for i in range(2000))
open("corpus.txt", "w").write(text)
tessera("tokenizer", "train", "--vocab-size", "400", "--out", "tokenizer.json", "corpus.txt")
tessera("data", "prepare", "--tokenizer", "tokenizer.json", "--out", "train.h5", "--documents", "blank-line", "corpus.txt")
model = "{family: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64}"
config = dict(model=yaml.safe_load(model), data=dict(train=[dict(path="train.h5")], seq_len=32),
              train=dict(steps=5, global_batch=4, micro_batch=2, threads=1), optimizer=dict(name="adamw", lr=1e-3),
              schedule=dict(name="constant"), checkpoint=dict(dir="checkpoints"), log=dict(dir="runs"))
yaml.safe_dump(config, open("run.yaml", "w"))
tessera("train", "run.yaml")

schema = json.loads(tessera("config", "schema"))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)


class Loader(yaml.SafeLoader):
    """YAML 1.2 numbers, as we read them: 1e-3 is one."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", __import__("re").compile(r"^[-+]?[0-9][0-9.]*[eE][-+]?[0-9]+$"), list("-+0123456789"))
paths = sorted(glob.glob(os.path.join(configs, "*.yaml"))) + ["run.yaml"]
for path in paths:
    validator.validate(yaml.load(open(path), Loader))
    validator.validate(yaml.load(tessera("config", "show", path), Loader))
for section, key, value in (("train", "steps", "many"), ("train", "stepz", 3), ("optimizer", "name", "sgd"), ("data", "seq_len", 0)):
    wrong = json.loads(json.dumps(config))
    wrong.setdefault(section, {})[key] = value
    assert not validator.is_valid(wrong), f"the schema accepts {section}.{key}={value}"
print(f"jsonschema: the schema is one, accepts {len(paths)} configs as written and as shown, refuses 4 wrong ones")

tokenizer = json.load(open("tokenizer.json"))
with h5py.File("train.h5") as file:
    tokens, offsets = file["tokens"][:], file["doc_offsets"][:]
    assert bytes(file["tokenizer"][:]) == open("tokenizer.json", "rb").read()
assert offsets[0] == 0 and offsets[-1] == len(tokens) and (numpy.diff(offsets) > 0).all() and len(offsets) == 2001
assert tokens.max() < 400
tessera("data", "inspect", "run.yaml", "--steps", "0:5", "--out", "batches.safetensors")
batches = load_file("batches.safetensors")["tokens"]
assert batches.shape == (5, 4, 33) and batches.dtype == numpy.int32
windows = {bytes(tokens[i : i + 33].astype(numpy.int32)) for i in range(0, len(tokens) - 32, 32)}
assert all(bytes(row) in windows for row in batches.reshape(-1, 33))
print(f"h5py: {len(tokens)} tokens of {len(offsets) - 1} documents; every trained-on row is a window of them")

manifest_step = sorted(glob.glob("checkpoints/step-*"))[-1]
with h5py.File(glob.glob(manifest_step + "/*.h5")[0]) as file:
    names = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    assert len(names) > 30 and all(numpy.isfinite(file[name][...]).all() for name in names)
print(f"h5py: {len(names)} datasets of a checkpoint's shard")

lines = [json.loads(line) for line in open("runs/metrics.jsonl")]
events = EventAccumulator("runs").Reload()
losses = events.Scalars("train/loss")
assert [event.step for event in losses] == [0, 1, 2, 3, 4]
for line, event in zip(lines[1:], losses):
    assert line["step"] == event.step and abs(line["loss"] - event.value) <= 1e-6 * abs(line["loss"])
print(f"tensorboard: {len(losses)} losses, equal to those of metrics.jsonl, and {len(events.Tags()['scalars'])} series")
