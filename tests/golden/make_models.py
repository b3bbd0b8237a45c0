"""Makes the small models of every architecture: random weights in Hugging Face's own classes, saved as they save them, and
their logits. Beside make_golden.py, with the same packages: python make_models.py [NAME ...]"""
import json
import os
import shutil
import sys

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
torch.set_grad_enabled(False)


def short(row):
    """f32 values with as many digits as tell them apart."""
    return [float(f"{x:.8g}") for x in np.asarray(row, np.float32)]


def randomize(model, seed):
    torch.manual_seed(seed)
    for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        if not tensor.is_floating_point() or "inv_freq" in name:
            continue
        vector = tensor.dim() == 1
        centre = 1.0 if vector and "bias" not in name else 0.0
        tensor.copy_(torch.randn_like(tensor) * 0.2 + centre)


def answer(model, ids):
    """Logits; of an encoder the mean over the sequence, of length 1, once a token."""
    out = model(torch.tensor([ids]))
    if hasattr(out, "logits"):
        return out.logits[0].numpy()
    mean = out.last_hidden_state[0].mean(0)
    return (mean / mean.norm()).expand(len(ids), -1).numpy()


def make(name, seed, kind, config, lengths=(1, 9, 130), kept=4, shards=None, dtype=torch.float32):
    folder = os.path.join(HERE, name)
    model = kind(config).eval()
    randomize(model, seed)
    size = {"max_shard_size": shards} if shards else {}
    model.to(dtype).save_pretrained(folder, **size)
    extra = os.path.join(folder, "generation_config.json")
    if os.path.exists(extra):
        os.remove(extra)
    # Read back: what the files hold is what counts. "eager" adds nothing of its own to the formulas.
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")
    rng, cases = np.random.default_rng(seed), []
    for length in lengths:
        ids = rng.integers(0, config.vocab_size, length).tolist()
        logits = answer(model, ids)
        twice = answer(model.double(), ids)
        model.float()
        error = np.abs(twice - logits).max() / np.abs(twice).max()
        print(name, length, "f32 against f64:", f"{error:.1e}", "std", logits.std())
        cases.append({"tokens": ids, "logits": [short(row) for row in logits[-kept:]]})
    with open(os.path.join(folder, "logits.json"), "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


def rope(theta, **scaling):
    return {"rope_type": scaling.pop("kind", "default"), "rope_theta": theta, **scaling}


def models():
    t = transformers
    shape = dict(vocab_size=101, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
                 num_key_value_heads=2, max_position_embeddings=512)
    yield "tiny_llama3", 21, t.LlamaForCausalLM, t.LlamaConfig(
        **shape, head_dim=16, tie_word_embeddings=True,
        rope_parameters=rope(10000.0, kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=64)), {}
    yield "tiny_qwen2", 22, t.Qwen2ForCausalLM, t.Qwen2Config(
        **shape, tie_word_embeddings=False, rope_parameters=rope(10000.0)), {}
    yield "tiny_gpt2", 23, t.GPT2LMHeadModel, t.GPT2Config(
        vocab_size=101, n_embd=48, n_layer=2, n_head=3, n_positions=256, n_inner=None), {}
    yield "tiny_gemma3", 24, t.Gemma3ForCausalLM, t.Gemma3TextConfig(
        **{**shape, "num_hidden_layers": 7, "hidden_size": 40, "intermediate_size": 56, "num_attention_heads": 4},
        head_dim=20, query_pre_attn_scalar=24, sliding_window=32,
        rope_parameters={"full_attention": rope(1000000.0, kind="linear", factor=8.0),
                         "sliding_attention": rope(10000.0)}), {"dtype": torch.bfloat16}
    yield "tiny_mixtral", 25, t.MixtralForCausalLM, t.MixtralConfig(
        **{**shape, "intermediate_size": 36}, num_local_experts=5, num_experts_per_tok=2,
        rope_parameters=rope(10000.0), tie_word_embeddings=False), {"shards": "150KB", "dtype": torch.bfloat16}
    yield "tiny_qwen3moe", 26, t.Qwen3MoeForCausalLM, t.Qwen3MoeConfig(
        **shape, head_dim=20, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=3, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[], rope_parameters=rope(10000.0),
        tie_word_embeddings=False), {"dtype": torch.bfloat16}
    latent = dict(vocab_size=101, hidden_size=40, intermediate_size=56, moe_intermediate_size=20, num_hidden_layers=3,
                  num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=32, qk_rope_head_dim=8, qk_nope_head_dim=16,
                  v_head_dim=12, n_routed_experts=8, num_experts_per_tok=3, first_k_dense_replace=1,
                  max_position_embeddings=512, tie_word_embeddings=False)
    yarn = rope(10000.0, kind="yarn", factor=4.0, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0,
                original_max_position_embeddings=64)
    yield "tiny_deepseek", 27, t.DeepseekV3ForCausalLM, t.DeepseekV3Config(
        **latent, q_lora_rank=24, n_shared_experts=1, n_group=4, topk_group=2, routed_scaling_factor=2.5,
        norm_topk_prob=True, rope_parameters=dict(yarn)), {"dtype": torch.bfloat16}
    yield "tiny_deepseek_lite", 28, t.DeepseekV2ForCausalLM, t.DeepseekV2Config(
        **latent, q_lora_rank=None, n_shared_experts=2, n_group=1, topk_group=1, topk_method="greedy",
        routed_scaling_factor=1.0, norm_topk_prob=False, rope_parameters={**yarn, "mscale": 0.707,
                                                                          "mscale_all_dim": 0.707}), {"dtype": torch.bfloat16}
    yield "tiny_bert", 29, t.BertModel, t.BertConfig(
        vocab_size=400, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=160, layer_norm_eps=1e-12), {"dtype": torch.bfloat16}


def make_sentences(folder, kind):
    """Texts and their embeddings, with the tokenizer of make_wordpiece.py, at most 32 tokens each."""
    shutil.copy(os.path.join(HERE, "wordpiece", "tokenizer.json"), folder)
    with open(os.path.join(folder, "sentence_bert_config.json"), "w") as out:
        out.write('{"max_seq_length": 32, "do_lower_case": false}\n')
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.enable_truncation(32)
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    texts = ["The keeper of the light.", "", "don't they?", "\u00c9clair na\u00efve \u4e2d\u6587", "a long sentence " * 20, "x"]
    rows = [short(answer(model, tokenizer.encode(text).ids)[0]) for text in texts]
    with open(os.path.join(folder, "sentences.json"), "w") as out:
        json.dump({"texts": texts, "embeddings": rows}, out)
        out.write("\n")


def main():
    print("torch", torch.__version__, "transformers", transformers.__version__)
    for name, seed, kind, config, options in models():
        if not sys.argv[1:] or name in sys.argv[1:]:
            make(name, seed, kind, config, **options)
            if name == "tiny_bert":
                make_sentences(os.path.join(HERE, name), kind)


if __name__ == "__main__":
    main()
