"""Compares splits and refusals with the Python package tokenizers: patterns by hand and by chance, behaviours, damaged files.

    python patterns_check.py TESSERA_BINARY WORK_DIR [SEED [SHARE]]

Ids are compared, of a tokenizer whose merges join whatever a split does not keep apart. Every difference fails; a pattern that Tessera
refuses and the package takes is only counted.
"""
import collections, json, os, random, subprocess, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import patterns
from dialects import EDGES, SPARSE, make_sparse

binary, work = sys.argv[1:3]
seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(10**6)
share = float(sys.argv[4]) if len(sys.argv) > 4 else 0.2  # of all damage
print(f"patterns: seed {seed}")
rng = random.Random(seed)
letters = list("abcdsSkKtTfil019 \n\r\t'-_.,!/#()[]{}^$&~|\\xXhH") + list("éßſKﬁİıǅΣσςЖж中日ひカ한คำ٠٣Ⅷ½²\u00a0\u2003\u3000\u180e\u0301\u0345\u200d😀ª·\u0085\u2028\u000b\u000c\u0000\u001b")
texts = ["".join(rng.choice(letters) * rng.choice([1, 1, 1, 2, 3]) for _ in range(rng.randrange(1, 26))) for _ in range(40)] + patterns.TEXTS
SEPARATOR = "<|between|>"
whole = SEPARATOR.join(texts)

base = Tokenizer(models.BPE())
base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
base.decoder = decoders.ByteLevel()
base.train_from_iterator(texts * 3, trainers.BpeTrainer(vocab_size=4000, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False, min_frequency=1))
base.add_special_tokens([SEPARATOR])
counts = collections.Counter()
failures = 0
path = os.path.join(work, "pattern.json")


def theirs(text, what):
    """The package's ids, or why it has none, from a process of its own: some damaged files end it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it prints its panics
        try:
            answer = Tokenizer.from_str(text).encode(what, add_special_tokens=False).ids
        except BaseException as error:  # panics are no Exceptions
            answer = repr(error)
        with os.fdopen(writer, "w") as out:
            json.dump(answer, out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else "the package crashed"


def check(label, text, what=whole):
    """Same ids, or both refuse; what the package refuses must not be taken."""
    global failures
    with open(path, "w") as file:
        file.write(text)
    done = subprocess.run([binary, "tokenizer", "encode", path], input=what.encode(), capture_output=True)
    expected = theirs(text, what)
    if done.returncode not in (0, 1, 2) or (done.returncode and len(done.stderr.strip().splitlines()) != 1):
        verdict = "CRASHED"
    elif done.returncode:
        verdict = "refused by both" if isinstance(expected, str) else "refused here"
    elif isinstance(expected, str):
        verdict = "TAKEN HERE ALONE"
    else:
        verdict = "same ids" if [int(i) for i in done.stdout.split()] == expected else "DIFFERS"
    counts[verdict] += 1
    if verdict.isupper():
        failures += 1
        print(f"{verdict}: {label} {done.stderr.decode()[:200]} {expected if isinstance(expected, str) else ''}")


def with_split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    file = json.loads(base.to_str())
    split = dict(type="Split", pattern={kind: pattern}, behavior=behavior, invert=invert)
    file["pre_tokenizer"] = dict(type="Sequence", pretokenizers=[split, file["pre_tokenizer"]])
    return json.dumps(file)


for pattern in patterns.PATTERNS + patterns.REFUSED:
    check(pattern, with_split(pattern, rng.choice(patterns.BEHAVIORS), rng.random() < 0.3))
for _ in range(120):
    pattern = patterns.generated(rng)
    check(pattern, with_split(pattern, rng.choice(patterns.BEHAVIORS), rng.random() < 0.3))
for text in ("", " ", "a", "aa", "(a", "é", "\n", "[", "{2}"):
    check("text " + text, with_split(text, rng.choice(patterns.BEHAVIORS), rng.random() < 0.3, "String"))
print("patterns:", dict(counts))

counts.clear()
mixed = SEPARATOR.join(EDGES)
for name in SPARSE:
    file = make_sparse(name, texts, 600).to_str()
    check(name, file, mixed)

# What the package refuses of a damaged file is refused here: members taken away, and others in their place.
def members(value, at=()):
    if isinstance(value, (dict, list)) and at != ("model", "vocab") and at != ("model", "merges"):
        for key in list(value) if isinstance(value, dict) else range(min(len(value), 2)):
            yield at + (key,)
            yield from members(value[key], at + (key,))


good = json.loads(make_sparse("dolma2", texts, 400).to_str())
template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}
good["post_processor"] = {"type": "Sequence", "processors": [template, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}]}
good["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
for at in members(good):
    for change in ("gone", None, 7, -1, "x", True, [], {}):
        file = json.loads(json.dumps(good))
        inner = file
        for key in at[:-1]:
            inner = inner[key]
        if change == "gone":
            del inner[at[-1]]
        else:
            inner[at[-1]] = change
        if rng.random() < share:
            check(f"{'/'.join(map(str, at))} {change}", json.dumps(file), "some text, 12 words")
print("damaged files:", dict(counts))
sys.exit(failures > 0)
