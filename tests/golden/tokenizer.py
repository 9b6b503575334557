"""Writes the golden tokenizers: OUT_DIR/<dialect>.json with "tokenizer" (tokenizer.json), "texts" and "ids".

    python tokenizer.py OUT_DIR        needs tokenizers
"""
import json, os, sys

from dialects import EDGES, PATTERNS, make

SAMPLES = ["The quick brown fox jumps over the lazy dog. It's 2024, isn't it?", "Der schnelle braune Fuchs springt über den faulen Hund; größer als 3,5 €.",
           "Le cœur a ses raisons que la raison ne connaît point.", "Съешь же ещё этих мягких французских булок, да выпей чаю.",
           "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。", "いろはにほへと ちりぬるを、カタカナも。", "다람쥐 헌 쳇바퀴에 타고파.", "نص حكيم له سر قاطع وذو شأن عظيم.", "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा।",
           "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.", "def f(x):\n    return {'a': x[1:], \"b\": 0xff}  # comment\n"]
for dialect in PATTERNS:
    tokenizer = make(dialect, SAMPLES * 3, 700)
    texts = EDGES + SAMPLES + ["".join(SAMPLES)]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    decoded = [tokenizer.decode(i, skip_special_tokens=False) for i in ids]
    with open(os.path.join(sys.argv[1], dialect + ".json"), "w") as out:
        json.dump(dict(tokenizer=json.loads(tokenizer.to_str()), texts=texts, ids=ids, decoded=decoded), out, ensure_ascii=True, separators=(",", ":"))
