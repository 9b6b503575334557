"""Compares ids with the Python package tokenizers, for five dialects, on a text file and on edge cases.

    python tokenizers_check.py TESSERA_BINARY TEXT_FILE WORK_DIR
"""
import os, subprocess, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from dialects import EDGES, PATTERNS, make

binary, text_file, work = sys.argv[1:]
text = open(text_file, encoding="utf-8", errors="replace", newline="").read()
documents = [d for d in text.replace("\r", "").split("\n") if d] + [e for e in EDGES if e and "\n" not in e]
failures = 0
for dialect in PATTERNS:
    tokenizer = make(dialect, documents[::7], 20000)
    path = os.path.join(work, dialect + ".json")
    tokenizer.save(path)
    expected = [e.ids for e in tokenizer.encode_batch(documents, add_special_tokens=False)]
    ours = subprocess.run([binary, "tokenizer", "encode", path, "--lines"], input="\n".join(documents).encode(), capture_output=True, check=True).stdout.decode()
    ours = [[int(i) for i in line.split()] for line in ours.split("\n")[:-1]]
    whole = "\n".join(EDGES)
    once = subprocess.run([binary, "tokenizer", "encode", path], input=whole.encode(), capture_output=True, check=True).stdout.decode()
    wrong = [d for d, a, b in zip(documents, expected, ours) if a != b]
    if len(ours) != len(expected) or [int(i) for i in once.split()] != tokenizer.encode(whole, add_special_tokens=False).ids:
        wrong.append("the edge cases as one text")
    failures += bool(wrong)
    print(f"{dialect}: {len(documents)} documents, {len(text.encode()) / 1e6:.1f} MB, {sum(map(len, expected))} ids, {len(wrong)} differ", *map(repr, wrong[:3]))
sys.exit(failures > 0)
