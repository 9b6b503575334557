"""The pre-tokenizers of five families, as tokenizer.json has them, and tokenizers made with them by the Python package."""
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]
PATTERNS = {"gpt2": [], "llama3": [LLAMA3], "qwen": [QWEN], "o200k": [O200K], "deepseek": DEEPSEEK}


def make(dialect, texts, vocab_size):
    tokenizer = Tokenizer(models.BPE(ignore_merges=dialect == "llama3"))
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in PATTERNS[dialect]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not splits)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits + [byte_level]) if splits else byte_level
    if dialect == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if dialect != "gpt2":  # one dialect stays without any special token
        tokenizer.add_special_tokens(["<|end_of_text|>", "<|end|>"])
        tokenizer.add_tokens([AddedToken("<think>", normalized=True), AddedToken("[MASK]", lstrip=True, rstrip=True, normalized=False)])
    return tokenizer


def _nested(*parts):
    return pre_tokenizers.Sequence(list(parts))


def _byte_level(add_prefix_space=False, use_regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


# Tokenizers learnt without all bytes to begin with, so that some have no token; what stands in for them; pre-tokenizers.
SPARSE = {
    "smollm": (None, False, None, lambda: _nested(pre_tokenizers.Digits(True), _byte_level())),
    "olmo": (None, False, normalizers.NFC, _byte_level),
    "dolma2": (None, False, None, lambda: _nested(pre_tokenizers.Split(Regex(LLAMA3), "removed", invert=True), _byte_level(use_regex=False))),
    "unknown": ("<unk>", False, None, lambda: _nested(pre_tokenizers.Digits(False), _nested(pre_tokenizers.Split(" ", "merged_with_next"), _byte_level(use_regex=False)))),
    "fused": ("<unk>", True, None, lambda: _nested(pre_tokenizers.Split(Regex(r"[.,;]"), "merged_with_previous"), _byte_level(add_prefix_space=True))),
}


def make_sparse(name, texts, vocab_size):
    unknown, fused, normalizer, pre_tokenizer = SPARSE[name]
    tokenizer = Tokenizer(models.BPE(unk_token=unknown, fuse_unk=fused))
    tokenizer.pre_tokenizer = pre_tokenizer()
    if normalizer:
        tokenizer.normalizer = normalizer()
    tokenizer.decoder = decoders.ByteLevel()
    special = [unknown] if unknown else []
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False))
    tokenizer.add_special_tokens(["<|end_of_text|>", "<|end|>"])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    tokenizer.add_tokens([AddedToken("word", single_word=True), AddedToken("caf\u00e9", normalized=True), AddedToken("[M]", lstrip=True, rstrip=True, normalized=False, special=True)])
    return tokenizer


ADDED_EDGES = ["word words sword word, (word)_word \u00e9word word\u0301 \u00b2word", "a\u3000[M]\u2003b [M][M] [M", "cafe\u0301 caf\u00e9 cafe", "x" + " " * 60 + "y" + " " * 25, "<|end|><|end_of_text|><|end_of_te", "12 345 6\u00bd\u2167 a1",
               "a.b, c;d. e,, f;;", " lead trail "]

EDGES = [
    "", " ", "  ", "\n", "\r\n\r\n", "a\u00a0b\u2003c\u202fd\u3000e", "\u180e\u180ex", "\t tab\x0b\x0c\x85 next", "x" * 300, " " * 300, "\n" * 300,
    "1234567890" * 30, "I'm we'LL they'Re DON'T it's'S", "caf\u00e9 cafe\u0301 \u212b A\u030a", "e" + "\u0301" * 120, "\u1e0b\u0323 d\u0323\u0307",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab", "\u65e5\u672c\u8a9e\u30c6\u30b9\u30c8\u3072\u3089\u304c\u306a123\u4e2d\u6587", "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\ufe0f", "\u0661\u0662\u0663\u0664 \u2167 \u00bd \u00b2",
    "ǅungla ʰʲ ªº ﬁ ß ẞ İı", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940", "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd", "a<|end_of_text|>b <|end|><|end_of_te|>", "x  [MASK]  y[MASK]z <think>caf\u00e9</think>",
    "\x00\x01\x7f\u200b\ufeff\ufffd", "\U0002a6a5\U0010ffff\ue000", "#include <a/b.h>\n\tif (x!=y) {}//\n\n  return;\r\n", "\u0130\u017f's \u212aS 'ſ", "_a __b-c...d/e\\f\n/\n",
]
