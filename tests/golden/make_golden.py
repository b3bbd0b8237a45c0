#!/usr/bin/env python3
"""Makes the golden files of this folder with programs that are not dipper.

    python make_golden.py SmolLM2-135M-Instruct.Q4_1.gguf

needs torch, transformers, tokenizers, gguf, safetensors, numpy. transformers itself reads and dequantizes the GGUF file.
What each file holds is said in README.md.
"""
import json
import os
import sys

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPTS = [
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "What is the capital of France?",
    "Explain what a compiler does to a child.",
    "List three uses of copper.",
    "Translate 'good morning' into Spanish.",
    "How do I boil an egg?",
    "What is 17 plus 25?",
    "Tell me a story about a lighthouse keeper.",
    "Name the planets of the solar system.",
]
TEXTS = [
    "Hello, world!",
    "  leading and   inner   spaces\t\ttabs\n\n\nnewlines \r\n trailing   ",
    "I'm sure we'll say it's they've can't WON'T 'tis o'clock",
    "12345 3.14159 1,000,000 0x1F 2026-11-24 ٣٤٥ ½ Ⅷ",
    "def f(x: int) -> int:\n    return x ** 2 + 1  # comment\n\nfor (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "机器学习是人工智能的一个分支。我们今天去哪里？日本語のテキスト、カタカナ、ひらがな。",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇩🇪 👍🏽 emoji",
    "Ünïcödé naïve café e\u0301 Ångström Straße ǅ ﬁ",
    "<|im_start|>user\nspecial<|im_end|> <|endoftext|> <|im_start |>",
    "a\u00a0b\u2003c\u200bd\u3000e\u2028f\ufeffg",
    "Привет мир, שלום עולם, مرحبا بالعالم, नमस्ते दुनिया, สวัสดี",
    "!!!???...---___***///\\\\\\~~~```'''\"\"\"",
    "",
    " ",
    "\n",
    "x" * 300,
    "aaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbb abababababab",
]


def save(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=True, separators=(",", ":"))
        out.write("\n")


def sampled_logits(logits, rng):
    """Of each position: its 8 largest logits and 24 others, and how far logits spread there."""
    rows = []
    for row in logits:
        ids = np.unique(np.concatenate([np.argsort(-row, kind="stable")[:8], rng.integers(0, len(row), 24)]))
        rows.append({"ids": ids.tolist(), "values": [float(row[i]) for i in ids],
                     "scale": float(np.abs(row).max()), "argmax": int(row.argmax())})
    return rows


def smollm2(path):
    folder, name = os.path.split(os.path.abspath(path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    rng = np.random.default_rng(1)

    cases = []
    for length in (1, 17, 96):
        ids = rng.integers(3, 49152, length).tolist()
        logits = model(torch.tensor([ids])).logits[0].numpy()
        cases.append({"tokens": ids, "positions": sampled_logits(logits, rng)})
    text = "The quick brown fox jumps over the lazy dog. " * 12
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    cases.append({"tokens": ids, "positions": sampled_logits(model(torch.tensor([ids])).logits[0].numpy(), rng)})
    save("smollm2_logits.json", cases)

    cases = []
    for prompt in PROMPTS:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                             add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        out = model.generate(torch.tensor([ids]), max_new_tokens=128, do_sample=False,
                             eos_token_id=2, pad_token_id=2, repetition_penalty=1.0)[0].tolist()
        # How near a tie each choice was: the gap between the two best logits of the step.
        logits = model(torch.tensor([out])).logits[0]
        top = logits[len(ids) - 1:-1].topk(2).values
        new = out[len(ids):]
        cases.append({"prompt": prompt, "rendered": text, "prompt_ids": ids, "ids": new,
                      "text": tokenizer.decode(new, skip_special_tokens=True),
                      "smallest_gap": float((top[:, 0] - top[:, 1]).min())})
    save("smollm2_greedy.json", cases)

    with open(os.path.join(HERE, "perplexity.txt"), encoding="utf-8") as source:
        ids = tokenizer(source.read(), add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([ids])).logits[0].double()
    nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
    save("smollm2_perplexity.json", {"tokens": len(ids), "perplexity": float(nll.exp())})

    save("smollm2_tokens.json", [{"text": t, "ids": tokenizer(t, add_special_tokens=False)["input_ids"]} for t in TEXTS])


def tiny(name, seed, dtype, **config):
    """A random Llama of HF's own class, as safetensors with config.json, and its logits."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=512, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if parameter.dim() == 1 else 0.0))
    folder = os.path.join(HERE, name)
    model.to(dtype).save_pretrained(folder)
    model = model.to(torch.float32)  # rounded to dtype, computed in f32
    rng = np.random.default_rng(seed)
    cases = []
    for length in (1, 9, 70):
        ids = rng.integers(0, config["vocab_size"], length).tolist()
        logits = model(torch.tensor([ids])).logits[0].numpy()
        cases.append({"tokens": ids, "logits": [[float(np.float32(x)) for x in row] for row in logits[-8:]]})
    with open(os.path.join(folder, "logits.json"), "w") as out:
        json.dump(cases, out, separators=(",", ":"))
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    print("torch", torch.__version__, "transformers", transformers.__version__)
    tiny("tiny_llama", 7, torch.float32, vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
         num_attention_heads=4, num_key_value_heads=2, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=False)
    tiny("tiny_tied", 8, torch.bfloat16, vocab_size=130, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
         num_attention_heads=6, num_key_value_heads=3, rope_theta=500.0, rms_norm_eps=1e-6, tie_word_embeddings=True)
    smollm2(sys.argv[1])
