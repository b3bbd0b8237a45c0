"""Makes pieces/: small Unigram and SentencePiece-like BPE tokenizers, and what Hugging Face's `tokenizers` 0.23.3 makes of
texts with them. Needs sentencepiece 0.2 for its character map."""
import json
import os
import random
import struct

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "pieces")
BYTES = ["<0x%02X>" % i for i in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>"]


def small_map():
    """A character map of four entries as SentencePiece stores one: a double-array trie and its texts."""
    entries = {"①": "1", "ﬁ": "fi", "é": "E", "\u2049": "!?"}
    texts, at = b"", {}
    for key, value in entries.items():
        at[key] = len(texts)
        texts += value.encode() + b"\0"
    units = [0] * 1024
    used = {0}
    free = 1

    def place(node, keys, depth):
        nonlocal free
        children = sorted({k[depth] if depth < len(k) else 0 for k in keys})
        base = next(b for b in range(free, 1000) if all((b ^ c) not in used for c in children))
        units[node] |= (node ^ base) << 10
        used.update(base ^ c for c in children)
        for c in children:
            if c == 0:
                units[node] |= 1 << 8
                units[base] = 1 << 31 | at[keys[0].decode()]
            else:
                units[base ^ c] = c
                place(base ^ c, [k for k in keys if k[depth] == c], depth + 1)

    place(0, [k.encode() for k in entries], 0)
    units = units[: max(used) + 256]
    trie = struct.pack("<%dI" % len(units), *units)
    return struct.pack("<I", len(trie)) + trie + texts


def train(unigram, fallback, normalizer, pre_tokenizer, decoder):
    special = SPECIAL + (BYTES if fallback else [])
    size = len(special) + 220
    if unigram:
        t = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    else:
        t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback, fuse_unk=True))
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, limit_alphabet=90, show_progress=False)
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre_tokenizer, decoder
    with open(os.path.join(HERE, "perplexity.txt")) as text:
        t.train_from_iterator([text.read(), "Éclair naïve 1 fi !? ------ aaaa"], trainer)
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    file = json.loads(t.to_str())
    if unigram:
        file["model"]["byte_fallback"] = fallback
    file["added_tokens"] = [a for a in file["added_tokens"] if a["content"] in SPECIAL]
    return file


def main():
    os.makedirs(FOLDER, exist_ok=True)
    mark = "▁"
    to_text = [decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse()]
    meta = pre_tokenizers.Metaspace
    tokenizers = {
        "unigram": (True, False, normalizers.Sequence([normalizers.Precompiled(small_map()), normalizers.Replace(Regex(" {2,}"), " ")]),
                    meta(), decoders.Metaspace()),
        "unigram_bytes": (True, True, normalizers.Sequence([normalizers.Strip(), normalizers.Lowercase()]),
                          pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta(prepend_scheme="first")]),
                          decoders.Sequence(to_text)),
        "llama2": (False, True, normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)]), None,
                   decoders.Sequence(to_text + [decoders.Strip(" ", 1, 0)])),
        "gemma": (False, True, normalizers.Replace(" ", mark), pre_tokenizers.Split(" ", "merged_with_previous"),
                  decoders.Sequence(to_text)),
    }
    random.seed(3)
    texts = ["", " ", "  ", "a", "The lighthouse keeper", "two  spaces   three", " led by", "Éclair naïve e\u0301 ①②ﬁ\u2049\u031f é\u0301",
             "中文字 한국어", "x\u200by\u3000w\tv\r\n", "<s> the </s>", "\u2581a\u2581\u2581b", "<0x41> -------------------", "👩‍👩‍👧 🇩🇪",
             "😴\u2049\u031f"]
    texts += ["".join(chr(random.choice([32, random.randrange(32, 127), random.randrange(0xA0, 0x600), random.randrange(0x1E00, 0x2100)]))
                      for _ in range(24)) for _ in range(20)]
    for name, parts in tokenizers.items():
        file = train(*parts)
        path = os.path.join(FOLDER, name + ".json")
        with open(path, "w") as out:
            json.dump(file, out, ensure_ascii=False, separators=(",", ":"))
        t = Tokenizer.from_file(path)
        t.encode_special_tokens = True
        cases = []
        for text in texts:
            ids = t.encode(text, add_special_tokens=False).ids
            cases.append({"text": text, "ids": ids, "decoded": t.decode(ids, skip_special_tokens=False)})
        with open(os.path.join(FOLDER, name + "_cases.json"), "w") as out:
            out.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()
