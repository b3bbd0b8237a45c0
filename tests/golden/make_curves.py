"""Makes tests/golden/curves.json: losses and gradient norms of 50 updates by PyTorch's AdamW, of small models from their files.
Token k of sequence b is (7919 b + 31 k^2 + k) mod 97; the batch of step n begins with sequence 2 n mod 6. Vectors do not
decay, the norm is clipped at 1, the learning rate is 1e-3. NAME.bf16: at 1e-4, forward and backward with matrices rounded to bf16 (and
kept in f32, so that nothing else is), the update on masters in f32. Packages: torch, transformers. python make_curves.py"""
import json
import os

import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTH, STEPS = 50, 50


def sequence(b):
    return [(b * 7919 + k * k * 31 + k) % 97 for k in range(LENGTH)]


def rounded(masters, model):
    for master, p in zip(masters, model.parameters()):
        p.data.copy_(master.data.bfloat16().to(p.dtype) if p.dim() > 1 else master.data)


def curve(name, narrow=False, dtype=torch.float32, lr=1e-3):
    model = transformers.AutoModelForCausalLM.from_pretrained(os.path.join(HERE, name), dtype=dtype,
                                                              attn_implementation="eager")
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    masters = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()] if narrow else list(model.parameters())
    matrices = [p for p in masters if p.dim() > 1]
    vectors = [p for p in masters if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], lr=lr)
    rows = []
    for n in range(STEPS):
        ids = torch.tensor([sequence(2 * n % 6), sequence(2 * n % 6 + 1)])
        model.zero_grad()
        if narrow:
            rounded(masters, model)
        logits = model(ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for master, p in zip(masters, model.parameters()):
            master.grad = p.grad
        optimizer.step()
        rows.append([round(loss.item(), 7), round(norm.item(), 6)])
    return rows


names = ["tiny_llama", "tiny_gpt2", "tiny_qwen3", "tiny_mixtral", "tiny_tied"]
with open(os.path.join(HERE, "curves.json"), "w") as out:
    curves = {name: curve(name) for name in names}
    curves.update({name + ".bf16": curve(name, True, lr=1e-4) for name in ["tiny_llama", "tiny_gpt2", "tiny_mixtral", "tiny_tied"]})
    json.dump(curves, out)
    out.write("\n")
