"""Gradients of the small models by PyTorch: NAME/gradients.safetensors beside each one's weights. Hugging Face's own class in
float64, two sequences of different lengths, the sum of the cross entropies of the tokens to come, some of which do not
count. Of some models also gradients_long.safetensors, sequences over many pages and row tiles. Beside make_models.py, with the
same packages: python make_gradients.py [NAME ...]

  sequence.I.ids, .targets, .losses   targets below 0 do not count
  gradient.TENSOR                     f32, under the name and in the layout of the model's file
  projection.TENSOR                   instead, of a tensor of more than 2048 elements: f64[65], its norm and 64 sums of its
                                      elements with signs; the sign of element i in sum j is sign(64 i + j)
"""
import os
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ["tiny_llama", "tiny_tied", "tiny_llama3", "tiny_qwen2", "tiny_qwen3", "tiny_gpt2", "tiny_gemma3", "tiny_mixtral",
         "tiny_qwen3moe", "tiny_deepseek_lite", "tiny_deepseek"]
LENGTHS = (70, 37)
LONG, LONG_LENGTHS = ["tiny_llama", "tiny_gemma3"], (330, 170)
MOST, SUMS = 2048, 64


def signs(count):
    """[count, SUMS] of -1 and 1: the highest bit of splitmix64's output for the counter 64 i + j."""
    x = np.arange(count * SUMS, dtype=np.uint64)
    with np.errstate(over="ignore"):
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return np.where(x >> np.uint64(63), 1.0, -1.0).reshape(count, SUMS)


def sequences(vocabulary, seed, lengths):
    rng = np.random.default_rng(seed)
    for length in lengths:
        ids = rng.integers(0, vocabulary, length + 1)
        targets = np.where(rng.random(length) < 0.2, -1, ids[1:])
        yield ids[:-1].astype(np.int32), targets.astype(np.int32)


def stored(model):
    """What the parameters' memory holds, as the model's file would hold it."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = [name for name in os.listdir(folder) if name.endswith(".safetensors")]
        return {name: tensor for file in files for name, tensor in load_file(os.path.join(folder, file)).items()}


def make(name, seed, lengths=LENGTHS, file="gradients.safetensors"):
    folder = os.path.join(HERE, name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    model.get_input_embeddings().padding_idx = None # it would take that row's gradient away
    out = {}
    for i, (ids, targets) in enumerate(sequences(model.config.vocab_size, seed, lengths)):
        logits = model(torch.tensor(ids[None], dtype=torch.long)).logits[0]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(targets, dtype=torch.long), ignore_index=-1,
                                                   reduction="none")
        losses.sum().backward()
        out.update({f"sequence.{i}.ids": ids, f"sequence.{i}.targets": targets,
                    f"sequence.{i}.losses": losses.detach().numpy()})
    for buffer in model.buffers(): # what steers a choice only
        buffer.zero_() if buffer.is_floating_point() else buffer
    for parameter in model.parameters():
        parameter.data = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    for tensor, gradient in stored(model).items():
        flat = gradient.reshape(-1)
        if flat.size <= MOST:
            out["gradient." + tensor] = gradient.astype(np.float32)
        else:
            out["projection." + tensor] = np.concatenate([[np.linalg.norm(flat)], flat @ signs(flat.size)])
    save_file(out, os.path.join(folder, file))
    print(name, len(out), "tensors", os.path.getsize(os.path.join(folder, file)), "bytes, loss",
          sum(out[f"sequence.{i}.losses"].sum() for i in range(len(lengths))))


def main():
    print("torch", torch.__version__, "transformers", transformers.__version__)
    for seed, name in enumerate(NAMES):
        if not sys.argv[1:] or name in sys.argv[1:]:
            make(name, 100 + seed)
            if name in LONG:
                make(name, 200 + seed, LONG_LENGTHS, "gradients_long.safetensors")


if __name__ == "__main__":
    main()
