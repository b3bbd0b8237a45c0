"""Makes wordpiece/: a small WordPiece tokenizer, and what Hugging Face's `tokenizers` 0.23.3 makes of texts with it."""
import json
import os
import random

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    t = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False)
    with open(os.path.join(HERE, "perplexity.txt")) as text:
        t.train_from_iterator([text.read(), "Éclair naïve 中文 한국 don't ! ? , . ' - ( )"], trainer)
    cls, sep = t.token_to_id("[CLS]"), t.token_to_id("[SEP]")
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)])
    folder = os.path.join(HERE, "wordpiece")
    t.save(os.path.join(folder, "tokenizer.json"))
    random.seed(3)
    texts = ["", " ", "The lighthouse keeper", "don't do not. Is it ? No !", "ÉCLAIR naïve e\u0301 İstanbul", "中文字 한국어", "a" * 100, "a" * 101,
             "[SEP] the [MASK]", "x\u200by\u00adz\u3000w\tv\n", "\u0000\ufffd~", "1,000.50 _under_score @user #tag", "ﬁne ß ǅ"]
    texts += ["".join(chr(random.choice([random.randrange(32, 127), random.randrange(0x80, 0x600), random.randrange(0x1e00, 0x2100)]))
                      for _ in range(24)) for _ in range(20)]
    t.encode_special_tokens = True
    cases = []
    for text in texts:
        ids = t.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "decoded": t.decode(ids, skip_special_tokens=False)})
    with open(os.path.join(folder, "cases.json"), "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()
