"""Patterns in which Oniguruma and PCRE2 differ or might, and generators of more, for the golden file and for the live comparison."""
PATTERNS = r"""\h+
[^\H]+
$
^
^.
.$
(?m:.+)
(?m).+
.+
(?i:'s|'t|'re|'ve|'m|'ll|'d)
(?i:[sdmt]|ll|ve|re)
(?i:k)
(?i:[^s])
(?i)\p{Lu}+
a(?i)b|c
(?i)a|(?-i:B)
x*
(?=[A-Z])
(?<=[a-z])(?=[A-Z])
()
a|
\b
\B
\w+
[^\W\d]+
[\W]+
\d+
[\D]
[\S]+
[^\S\n]+
[\s\S]
[\p{L}&&[^\p{Han}]]+
[a-z&&[^aeiou]]+
[^a-z&&[^s]]+
[[a-c][x-z]]+
[^a[^b]]
[[:digit:][:punct:]]+
[[:^space:]]
\p{Punct}+
\p{^L}+
\P{^L}+
\p{han}+
\p{Hiragana}|\p{Katakana}
\p{Greek}
\p{Uppercase_Letter}
\R
\A.
.\z
.\Z
\N+
\O+
\x41|\x{4e2d}|\u0434|\0
(?<x>[a-c])+
a*+a
\p{N}{1,3}+
a{2}?
a{1,2}?
a{2}+b
a{,2}b
a{
(?>a+)b
(?#comment)a
(?x: a b # c
)c
(?<!a)b
(?<=a|bc)d
[a-]
[-a]
[\w-]
[.-_]
[\b]
\v|\f
[一-龥぀-ゟ゠-ヿ]+
\s++$
'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+
[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+|\s+
 ?[^(\s|[.,!?…。，、।۔،])]+
[0-9][0-9][0-9]""".split("\n")
PATTERNS = [p.replace("# c", "# c\n") if p.startswith("(?x:") else p for p in PATTERNS if p != ")c"]
PATTERNS = [p + ")c" if p.startswith("(?x:") else p for p in PATTERNS]
REFUSED = ["(a", "a)", "*a", "+", "[a", "[]", "\\", "(?s:.)", "(?P<x>a)", "[\\w-a]", "[a-\\d]", "(?<1a>a)", "^*", "(?=a)*", "(?:(?=a))?b", "a{100001}", "\\p{Nonsense}", "[[:nonsense:]]"]
TEXTS = ["aab abc ABC aXb Bc", "It's we'LL they'Re", "cab\nbad\n\nend\n", "  tail  \r\n \u00a0\u3000x\u180ey ", "日本語テストひらがな中Д ΣςЖж", "12345 Ⅷ½²٣ a1b22", "sſ SS ßﬁ Kk İı ǅ é e\u0301", "(a) [b] {c} a{x} ,.!? -_ ~^$", "\x00\x01\x08\x0b\x0c\x1b\x7f\u200d\u2028", "aaaa aa-b.c bcd"]
BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def generated(rng):
    """A pattern of random constructs."""
    atoms = ["a", "b", "s", "K", " ", "\\n", ".", "\\s", "\\S", "\\w", "\\W", "\\d", "\\h", "\\H", "\\p{L}", "\\P{L}", "\\p{Lu}", "\\p{N}", "\\p{Han}", "\\R", "[a-c]", "[^a-c]", "[\\s\\p{L}]", "[^\\s\\p{N}]",
             "[\\S&&[^a]]", "[\\W_]", "[[:punct:]-]", "中", "'", "\\b", "\\B", "^", "$", "\\A", "\\z", "\\Z", "\\N", "\\O", "(?i:k)", "(?i:[^st])", "(?m:.)"]
    repeats = ["", "", "", "", "?", "*", "+", "??", "*?", "+?", "?+", "*+", "++", "{2}", "{1,2}", "{,2}", "{2}?", "{1,2}+", "{2,}?"]

    def part(depth):
        if depth and rng.random() < 0.3:
            kind = rng.choice(["(?:", "(", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?<n>", "(?i)(?:"])
            return kind + alternatives(depth - 1) + ")"
        return rng.choice(atoms)

    def alternatives(depth):
        return "|".join("".join(part(depth) + rng.choice(repeats) for _ in range(rng.randrange(1, 4))) for _ in range(rng.choice([1, 1, 2, 3])))

    return alternatives(2)
