"""Writes the golden tokenizers: OUT_DIR/<dialect>.json with "tokenizer" (tokenizer.json), "texts" and "ids",
and splits.json with what pre-tokenizers Split make of texts.

    python tokenizer.py OUT_DIR        needs tokenizers
"""
import json, os, sys

from tokenizers import Regex, pre_tokenizers

import patterns
from dialects import ADDED_EDGES, EDGES, PATTERNS, SPARSE, make, make_sparse

SAMPLES = ["The quick brown fox jumps over the lazy dog. It's 2024, isn't it?", "Der schnelle braune Fuchs springt über den faulen Hund; größer als 3,5 €.",
           "Le cœur a ses raisons que la raison ne connaît point.", "Съешь же ещё этих мягких французских булок, да выпей чаю.",
           "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。", "いろはにほへと ちりぬるを、カタカナも。", "다람쥐 헌 쳇바퀴에 타고파.", "نص حكيم له سر قاطع وذو شأن عظيم.", "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा।",
           "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.", "def f(x):\n    return {'a': x[1:], \"b\": 0xff}  # comment\n"]


def write(name, content):
    with open(os.path.join(sys.argv[1], name + ".json"), "w") as out:
        json.dump(content, out, ensure_ascii=True, separators=(",", ":"))


def write_tokenizer(name, tokenizer, texts):
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    decoded = [tokenizer.decode(i, skip_special_tokens=False) for i in ids]
    write(name, dict(tokenizer=json.loads(tokenizer.to_str()), texts=texts, ids=ids, decoded=decoded))


for dialect in PATTERNS:
    write_tokenizer(dialect, make(dialect, SAMPLES * 3, 700), EDGES + SAMPLES + ["".join(SAMPLES)])
for dialect in SPARSE:
    write_tokenizer(dialect, make_sparse(dialect, SAMPLES * 3, 500), EDGES + SAMPLES + ADDED_EDGES)

# Splits: what they leave of each text.
cases = []
for i, pattern in enumerate(patterns.PATTERNS):
    behavior, invert = patterns.BEHAVIORS[i % 5], i % 3 == 1
    snake = "".join("_" + c.lower() if c.isupper() else c for c in behavior)[1:]
    for behavior, snake, invert in {("Isolated", "isolated", False), (behavior, snake, invert)}:
        split = pre_tokenizers.Split(Regex(pattern), snake, invert=invert)
        cases.append(dict(pattern=pattern, behavior=behavior, invert=invert, pieces=[[piece for piece, _ in split.pre_tokenize_str(text)] for text in patterns.TEXTS]))
cases.sort(key=lambda case: (case["pattern"], case["behavior"], case["invert"]))
for pattern in patterns.REFUSED:
    try:
        pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception:
        continue
    sys.exit(f"{pattern!r} is taken by the Python package")
write("splits", dict(texts=patterns.TEXTS, cases=cases, refused=patterns.REFUSED))
