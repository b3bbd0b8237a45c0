#!/usr/bin/env python3
"""Makes the golden files of this folder with programs that are not dipper. What each file holds is said in README.md.

    python make_golden.py SmolLM2-135M-Instruct.Q4_1.gguf [--only tiny,tokens,logits,greedy,perplexity]

needs torch, transformers, tokenizers, safetensors, gguf, numpy; with llama-cpp-python installed it asks llama.cpp too.
The gguf package dequantizes, Hugging Face's model computes in f32 on the CPU, and each answer is got in two ways before
it is written: weights also by transformers' own GGUF reader, tiny logits also by twenty lines of numpy in f64, greedy ids
also by one pass over the finished text, token ids also by llama.cpp.
"""
import argparse
import json
import os
import re

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config,
                          Qwen3ForCausalLM)

HERE = os.path.dirname(os.path.abspath(__file__))
NEW_TOKENS = 128
TOP, FIXED = 32, 64

PROMPTS = [
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "What is the capital of France?",
    "Explain what a compiler does to a child.",
    "List three uses of copper.",
    "Translate 'good morning' into Spanish.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "What is 17 plus 25?",
    "Summarize in one sentence: The harbour froze in January, so the ferries stopped, the market moved to the church hall, and "
    "for six weeks the islanders were fed by two brothers with a sledge, who never once agreed on the way home.",
    "Résumé this naïve café menu: crème brûlée €7, 抹茶アイス ¥500 🍵",
]
TEXTS = [
    "Hello, world!",
    "  leading and   inner   spaces\t\ttabs\n\n\nnewlines \r\n trailing   ",
    "I'm sure we'll say it's they've can't WON'T 'tis o'clock I'M you’re",
    "12345 3.14159 1,000,000 0x1F 2026-11-24 ٣٤٥ ½ Ⅷ x²³ ①② 一二三",
    "def f(x: int) -> int:\n    return x ** 2 + 1  # comment\n\nfor (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "机器学习是人工智能的一个分支。我们今天去哪里？日本語のテキスト、カタカナ、ひらがな。",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇩🇪 👍🏽 emoji",
    "Ünïcödé naïve café e\u0301 Ångström Straße ǅ ﬁ",
    "<|im_start|>user\nspecial<|im_end|> <|endoftext|> <|im_start |> <|im_start|><|im_start|>x<file_sep> y <|im_end",
    "a\u00a0b\u2003c\u200bd\u3000e\u2028f\ufeffg",
    "Привет мир, שלום עולם, مرحبا بالعالم, नमस्ते दुनिया, สวัสดี",
    "!!!???...---___***///\\\\\\~~~```'''\"\"\"",
    "",
    " ",
    "\n",
    "x" * 300,
    "aaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbb abababababab",
    "a\x00b\x01c\x7fd",
    "the byte 0x04 \x04 has no token, nor has the first of \U00040000: both are dropped",
    " \n \n\n\t x\t\n  y \r\r\n z",
]
BYTES = [
    b"abc\xff\xfe def",
    b"cut \xe4\xb8 short, and at the end \xf0\x9f\x98",
    b"overlong \xc0\xaf, surrogate \xed\xa0\x80, too far \xf4\x90\x80\x80, lone \x80\xbf",
    b"\xe4\xb8\xe4\xb8\xad",
]


def save(name, value):
    path = os.path.join(HERE, name)
    with open(path, "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=True, separators=(",", ":"))
        out.write("\n")
    print(f"{name}: {os.path.getsize(path)} bytes")


def short(values):
    """f32 values as the shortest decimals that read back to the same f32."""
    return [float(str(v)) for v in np.asarray(values, np.float32)]


def field(reader, key):
    return reader.fields[key].contents()


def hf_tokenizer(reader):
    """The tokenizer of the GGUF file's tables; `smollm` is every number character alone, then GPT-2's split."""
    assert field(reader, "tokenizer.ggml.model") == "gpt2" and field(reader, "tokenizer.ggml.pre") == "smollm"
    tokens, kinds = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(m.split(" ", 1)) for m in field(reader, "tokenizer.ggml.merges")]
    core = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                  pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    core.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, kinds) if kind == gguf.TokenType.CONTROL]
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    assert core.get_vocab_size() == len(tokens)
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=field(reader, "tokenizer.chat_template"),
                                   clean_up_tokenization_spaces=False)


HF_NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
            "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(name):
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    return f"model.layers.{layer[1]}.{HF_NAMES[layer[2]]}.weight" if layer else TOP_NAMES[name[:-7]] + ".weight"


def pair_rows(w, heads):
    """GGUF keeps the two rows that rotate together next to each other, HF half a head apart: HF's order to GGUF's."""
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def unpair_rows(w, heads):
    return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def hf_model(reader):
    """LlamaForCausalLM in f32, of the dequantized tensors."""
    arch = field(reader, "general.architecture")
    assert arch == "llama"
    at = lambda key: field(reader, f"llama.{key}")
    state = {}
    for tensor in reader.tensors:
        w = gguf.dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])
        if tensor.name.endswith((".attn_q.weight", ".attn_k.weight")):
            w = unpair_rows(w, at("attention.head_count" + ("" if ".attn_q." in tensor.name else "_kv")))
        state[hf_name(tensor.name)] = torch.from_numpy(np.array(w, np.float32))
    tied = "lm_head.weight" not in state
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0], hidden_size=at("embedding_length"),
        intermediate_size=at("feed_forward_length"), num_hidden_layers=at("block_count"),
        num_attention_heads=at("attention.head_count"), num_key_value_heads=at("attention.head_count_kv"),
        max_position_embeddings=at("context_length"), rms_norm_eps=at("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": at("rope.freq_base")}, tie_word_embeddings=tied))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if tied else set()), (missing, unexpected)
    model.tie_weights()
    return model.to(torch.float32).eval()


def load(path, second_reader=True):
    """The model and tokenizer of a GGUF file; the weights are compared with what transformers' own reader makes of it."""
    reader = gguf.GGUFReader(path)
    model = hf_model(reader)
    if second_reader:
        folder, name = os.path.split(os.path.abspath(path))
        other = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).state_dict()
        mine = model.state_dict()
        assert mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine), "the two readers disagree"
    return model, hf_tokenizer(reader) if "tokenizer.ggml.tokens" in reader.fields else None


def logits_of(model, ids):
    """logits[tokens, vocab] in f32"""
    return model(torch.tensor([ids])).logits[0].numpy()


def sampled(logits, fixed, positions):
    rows = []
    for at in positions:
        row = logits[at]
        ids = np.union1d(np.argsort(-row, kind="stable")[:TOP], fixed)
        max_, min_, std, scale = short([row.max(), row.min(), row.astype(np.float64).std(), np.abs(row).max()])
        rows.append({"at": int(at), "ids": ids.tolist(), "values": short(row[ids]), "argmax": int(row.argmax()),
                     "max": max_, "min": min_, "std": std, "scale": scale})
    return rows


def perplexity_text():
    with open(os.path.join(HERE, "perplexity.txt"), encoding="utf-8") as source:
        return source.read()


def make_logits(model, encode):
    rng = np.random.default_rng(1)
    fixed = np.sort(rng.choice(model.config.vocab_size, FIXED, replace=False))
    chat = encode("<|im_start|>user\nHow do I boil an egg?<|im_end|>\n<|im_start|>assistant\nPut the egg in cold water, bring it to the "
                  "boil, and wait for seven minutes: the white will be firm and the yolk soft. Then cool it under running water, "
                  "so that it stops cooking and the shell comes off.<|im_end|>\n")[:64]
    text = encode(perplexity_text())[:700]
    cases = []
    for name, ids, positions in (
            ("one token", [int(rng.integers(17, 49152))], [0]),
            ("random tokens", rng.integers(17, 49152, 17).tolist(), range(17)),
            ("chat text", chat, range(64)),
            ("random tokens", rng.integers(17, 49152, 64).tolist(), range(64)),
            ("the beginning of perplexity.txt", text, [0, 1, *range(63, 700, 64), *range(692, 700)])):
        assert len(ids) > max(positions)
        cases.append({"name": name, "tokens": ids, "positions": sampled(logits_of(model, ids), fixed, positions)})
    save("smollm2_logits.json", cases)


def make_greedy(model, tokenizer):
    cases = []
    for prompt in PROMPTS:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                             add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                             max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=2, pad_token_id=2)[0].tolist()
        new = out[len(ids):]
        # One pass over the finished text must choose the same ids as the cached steps did.
        steps = torch.from_numpy(logits_of(model, out)[len(ids) - 1:-1])
        top = steps.topk(2)
        assert top.indices[:, 0].tolist() == new, prompt
        margins = short((top.values[:, 0] - top.values[:, 1]).numpy())
        cases.append({"prompt": prompt, "rendered": text, "prompt_ids": ids, "ids": new,
                      "text": tokenizer.decode(new, skip_special_tokens=True), "stopped": new[-1] == 2,
                      "margins": margins, "smallest_gap": min(margins)})
        print(f"  {len(ids):4} + {len(new):3} tokens, smallest margin {min(margins):.5f}: {cases[-1]['text'][:70]!r}")
    save("smollm2_greedy.json", cases)
    return cases


def make_perplexity(model, encode):
    ids = encode(perplexity_text())
    logp = torch.log_softmax(torch.from_numpy(logits_of(model, ids)).double(), -1)
    nll = -logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    save("smollm2_perplexity.json", {"tokens": len(ids), "predicted": len(nll), "nll_mean": float(nll.mean()),
                                     "perplexity": float(nll.mean().exp())})
    print("  perplexity", float(nll.mean().exp()), "of", len(ids), "tokens")


def plain_encoder(tokenizer):
    """The same, but "<|im_end|>" in a text is just its characters."""
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.encode_special_tokens = True
    return lambda text: plain.encode(text, add_special_tokens=False).ids


def make_tokens(tokenizer, encode):
    plain = plain_encoder(tokenizer)
    cases = [{"text": t, "ids": encode(t), "plain_ids": plain(t)} for t in TEXTS]
    for raw in BYTES:
        text = raw.decode("utf-8", errors="replace")
        cases.append({"text": text, "bytes_hex": raw.hex(), "ids": encode(text), "plain_ids": plain(text)})
    save("smollm2_tokens.json", cases)


def ask_llama_cpp(path, encode, plain, greedy):
    """What llama.cpp says to the same questions. Token ids must be equal; its logits use 8-bit activations, so are near."""
    try:
        import llama_cpp
    except ImportError:
        return print("llama-cpp-python is not installed: llama.cpp was not asked")
    peer = llama_cpp.Llama(path, n_ctx=2048, logits_all=True, verbose=False)
    for text in TEXTS + PROMPTS + [perplexity_text()]:
        assert peer.tokenize(text.encode(), add_bos=False, special=True) == encode(text), text
        assert peer.tokenize(text.encode(), add_bos=False, special=False) == plain(text), text
    same = total = 0
    for case in greedy:
        ids = case["prompt_ids"] + case["ids"]
        peer.reset()
        peer.eval(ids)
        chosen = peer.scores[len(case["prompt_ids"]) - 1:len(ids) - 1].argmax(-1)
        same += int((chosen == case["ids"]).sum())
        total += len(case["ids"])
    ids = encode(perplexity_text())
    peer.reset()
    peer.eval(ids)
    logp = torch.log_softmax(torch.from_numpy(peer.scores[:len(ids)].copy()).double(), -1)
    nll = -logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].mean()
    print(f"llama.cpp {llama_cpp.__version__}: same token ids; same greedy choice in {same} of {total} steps; "
          f"perplexity {float(nll.exp()):.4f}")


def plain_logits(model, ids):
    """logits[tokens, vocab] in f64, written down from the formulas: a second opinion on what the classes above compute."""
    at, c = {k: v.double().numpy() for k, v in model.state_dict().items()}, model.config
    T, heads, kv_heads, hd = len(ids), c.num_attention_heads, c.num_key_value_heads, c.head_dim
    angle = np.arange(T)[:, None] * c.rope_parameters["rope_theta"] ** (-np.arange(0, hd, 2) / hd)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def norm(x, w):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c.rms_norm_eps) * w

    def rope(x):  # x[T, heads, hd]
        a, b = x[..., :hd // 2], x[..., hd // 2:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = at["model.embed_tokens.weight"][ids]
    for layer in range(c.num_hidden_layers):
        w = lambda name: at[f"model.layers.{layer}.{name}.weight"]
        h = norm(x, w("input_layernorm"))
        q = rope((h @ w("self_attn.q_proj").T).reshape(T, heads, hd))
        k = rope((h @ w("self_attn.k_proj").T).reshape(T, kv_heads, hd)).repeat(heads // kv_heads, 1)
        v = (h @ w("self_attn.v_proj").T).reshape(T, kv_heads, hd).repeat(heads // kv_heads, 1)
        score = np.where(np.tril(np.ones((T, T), bool)), np.einsum("thd,shd->hts", q, k) / np.sqrt(hd), -np.inf)
        p = np.exp(score - score.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + np.einsum("hts,shd->thd", p, v).reshape(T, -1) @ w("self_attn.o_proj").T
        h = norm(x, w("post_attention_layernorm"))
        gate = h @ w("mlp.gate_proj").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    return norm(x, at["model.norm.weight"]) @ at["lm_head.weight"].T


def tiny_cases(model, seed):
    rng, cases = np.random.default_rng(seed), []
    for length in (1, 9, 70):
        ids = rng.integers(0, model.config.vocab_size, length).tolist()
        logits = logits_of(model, ids)
        if isinstance(model, LlamaForCausalLM):
            error = np.abs(logits - plain_logits(model, ids)).max() / np.abs(logits).max()
            assert error < 1e-5, error
        cases.append({"tokens": ids, "logits": [short(row) for row in logits[-8:]]})
    return cases


def tiny(name, seed, dtype, classic=False, kind=(LlamaForCausalLM, LlamaConfig), **config):
    """A random model of HF's own class, as safetensors with config.json, and its logits."""
    torch.manual_seed(seed)
    theta = config.pop("rope_theta")
    model = kind[0](kind[1](max_position_embeddings=512, **config,
                                         rope_parameters={"rope_type": "default", "rope_theta": theta})).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if parameter.dim() == 1 else 0.0))
    folder = os.path.join(HERE, name)
    model.to(dtype).save_pretrained(folder)
    os.remove(os.path.join(folder, "generation_config.json"))
    if classic:  # as every release before transformers 5 wrote it
        path = os.path.join(folder, "config.json")
        with open(path) as source:
            written = json.load(source)
        written["rope_theta"] = written.pop("rope_parameters")["rope_theta"]
        written["torch_dtype"] = written.pop("dtype")
        with open(path, "w") as out:
            json.dump(written, out, indent=2, sort_keys=True)
            out.write("\n")
    # Read back, not cast back: .to(bfloat16) has also rounded the rotary frequencies, and casting would not restore them.
    again = kind[0].from_pretrained(folder, dtype=torch.float32).eval()
    save(f"{name}/logits.json", tiny_cases(again, seed))


def tiny_gguf(name, seed):
    """A random Llama in the mix of types of SmolLM2's file: Q8_0 embedding, Q4_1 matrices, F32 norms, no head, no tokenizer."""
    os.makedirs(os.path.join(HERE, name), exist_ok=True)
    path = os.path.join(HERE, name, "model.gguf")
    vocab, d, ff, layers, heads, kv_heads = 97, 64, 96, 2, 4, 2
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (("block_count", layers), ("context_length", 512), ("embedding_length", d), ("feed_forward_length", ff),
                       ("attention.head_count", heads), ("attention.head_count_kv", kv_heads), ("vocab_size", vocab),
                       ("rope.dimension_count", d // heads)):
        writer.add_uint32("llama." + key, value)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)

    def add(tensor, kind, *shape):
        w = (rng.standard_normal(shape) * 0.2 + (len(shape) == 1)).astype(np.float32)
        if tensor.endswith(("attn_q.weight", "attn_k.weight")):
            w = pair_rows(w, shape[0] * heads // d)
        writer.add_tensor(tensor, gguf.quantize(w, kind), raw_dtype=kind)

    kind = gguf.GGMLQuantizationType
    add("token_embd.weight", kind.Q8_0, vocab, d)
    for layer in range(layers):
        for tensor, shape in (("attn_q", (d, d)), ("attn_k", (d * kv_heads // heads, d)), ("attn_v", (d * kv_heads // heads, d)),
                              ("attn_output", (d, d)), ("ffn_gate", (ff, d)), ("ffn_up", (ff, d)), ("ffn_down", (d, ff))):
            add(f"blk.{layer}.{tensor}.weight", kind.Q4_1, *shape)
        add(f"blk.{layer}.attn_norm.weight", kind.F32, d)
        add(f"blk.{layer}.ffn_norm.weight", kind.F32, d)
    add("output_norm.weight", kind.F32, d)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model, _ = load(path, second_reader=False)  # transformers' reader wants a tokenizer in the file
    save(f"{name}/logits.json", tiny_cases(model, seed))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf", nargs="?", help="SmolLM2-135M-Instruct.Q4_1.gguf; without it only the tiny models are made")
    parser.add_argument("--only", default="tiny,tokens,logits,greedy,perplexity")
    arguments = parser.parse_args()
    only = set(arguments.only.split(","))
    torch.set_grad_enabled(False)
    print("torch", torch.__version__, "transformers", transformers.__version__, "tokenizers", tokenizers.__version__,
          "numpy", np.__version__)
    if "tiny" in only:
        tiny("tiny_llama", 7, torch.float32, classic=True, vocab_size=97, hidden_size=64, intermediate_size=96,
             num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rope_theta=10000.0, rms_norm_eps=1e-5,
             tie_word_embeddings=False)
        tiny("tiny_tied", 8, torch.bfloat16, vocab_size=130, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
             num_attention_heads=6, num_key_value_heads=3, rope_theta=500.0, rms_norm_eps=1e-6, tie_word_embeddings=True)
        tiny_gguf("tiny_gguf", 9)
    if "qwen3" in only or "tiny" in only:
        tiny("tiny_qwen3", 10, torch.float32, kind=(Qwen3ForCausalLM, Qwen3Config), vocab_size=101, hidden_size=48,
             intermediate_size=80, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=20,
             rope_theta=10000.0, rms_norm_eps=1e-6, tie_word_embeddings=True)
    if not arguments.gguf:
        return
    model, tokenizer = load(arguments.gguf)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    if "tokens" in only:
        make_tokens(tokenizer, encode)
    if "logits" in only:
        make_logits(model, encode)
    if "perplexity" in only:
        make_perplexity(model, encode)
    greedy = make_greedy(model, tokenizer) if "greedy" in only else []
    ask_llama_cpp(arguments.gguf, encode, plain_encoder(tokenizer), greedy)


if __name__ == "__main__":
    main()
