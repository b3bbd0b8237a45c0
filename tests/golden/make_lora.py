"""Makes tests/golden/lora/NAME/: adapters of small models as PEFT saves them, with numbers at random in both matrices, `logits.json`
(three sequences, the logits of the last 4 positions), and of tiny_llama `curve.json`: losses and gradient norms of 50 updates of the
adapter by PyTorch's AdamW, as make_curves.py has them. Packages: torch, transformers, peft. python make_lora.py"""
import json
import os

import peft
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTH, STEPS = 50, 50
# gpt2: its first three matrices are one module, whose adapter has one A. llama: ranks and alphas that differ.
ADAPTERS = {
    "tiny_llama": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"down_proj": 7},
                       alpha_pattern={"mlp.down_proj": 3.5}),
    "tiny_gpt2": dict(r=3, lora_alpha=6, target_modules=["c_attn", "c_fc", "attn.c_proj"], fan_in_fan_out=True, use_rslora=True),
}


def sequence(b, length=LENGTH):
    return [(b * 7919 + k * k * 31 + k) % 97 for k in range(length)]


def open_model(name):
    model = transformers.AutoModelForCausalLM.from_pretrained(os.path.join(HERE, name), dtype=torch.float32,
                                                              attn_implementation="eager")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def make(name):
    torch.manual_seed(7)
    directory = os.path.join(HERE, "lora", name)
    model = peft.get_peft_model(open_model(name), peft.LoraConfig(task_type="CAUSAL_LM", **ADAPTERS[name]))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_B" in key:
                p.normal_(0, 0.1)
    model.save_pretrained(directory)
    os.remove(os.path.join(directory, "README.md"))
    path = os.path.join(directory, "adapter_config.json")
    config = json.load(open(path))
    config["base_model_name_or_path"] = name
    config["target_modules"] = sorted(config["target_modules"])
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)
    model.eval()
    rows = []
    with torch.no_grad():
        for b, length in enumerate([1, 9, 70]):
            ids = sequence(b, length)
            logits = model(torch.tensor([ids])).logits[0]
            rows.append({"ids": ids, "logits": [[round(x, 6) for x in row] for row in logits[-4:].tolist()]})
    json.dump(rows, open(os.path.join(directory, "logits.json"), "w"))


def curve(name):
    directory = os.path.join(HERE, "lora", name)
    model = peft.PeftModel.from_pretrained(open_model(name), directory, is_trainable=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01)
    rows = []
    for n in range(STEPS):
        ids = torch.tensor([sequence(2 * n % 6), sequence(2 * n % 6 + 1)])
        optimizer.zero_grad()
        logits = model(ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rows.append([round(loss.item(), 7), round(norm.item(), 6)])
    json.dump(rows, open(os.path.join(directory, "curve.json"), "w"))
    print(rows[0], rows[-1])


for name in ADAPTERS:
    make(name)
curve("tiny_llama")
