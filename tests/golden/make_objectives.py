"""Makes tests/golden/objectives/: a tokenizer of single characters, a chat template, token ids, chats, pairs and values, and
curves.json: the losses and gradient norms of 50 updates by PyTorch's AdamW of tiny_llama: of every token, of what the assistant
says, by preferences (DPO against a frozen copy), as a reward model (transformers' LlamaForSequenceClassification) and as a value
model, both with a head of zeros. All examples are one batch: documents of 65 ids, chats of more than 32.
Matrices decay by 0.01, the norm is clipped at 1, the learning rate is 1e-3, that of DPO 5e-5. Packages: torch, transformers, tokenizers, jinja2.
python make_objectives.py"""
import array
import copy
import json
import os

import tokenizers
import jinja2
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
OUT, MODEL = os.path.join(HERE, "objectives"), os.path.join(HERE, "tiny_llama")
STEPS, BETA = 50, 0.1

PAIRS = [
    ("Name a color. ", "Blue is one.", "No."),
    ("What is 2 + 2? ", "4", "It is 5, I think, or so."),
    ("Say hello: ", "Hello there! How are you?", "hm"),
    ("Write a word that rhymes with cat. ", "hat", "dog"),
]
VALUES = [("Count: ", "1 2 3 4 5", 1.0), ("Count: ", "1 3 2", -0.5), ("Bye", " bye", 0.25), ("A longer prompt of many characters: ", "ok", -2.0)]

CHATS = [
    [("user", "Name a color, please."), ("assistant", "Blue, I would say, is one.")],
    [("system", "Be brief."), ("user", "And 2 + 2?"), ("assistant", "4"), ("user", "+ 1?"), ("assistant", "5")],
    [("user", "Who wrote this test?"), ("assistant", "Someone with patience.")],
    [("user", "Say it twice: yes"), ("assistant", "yes yes"), ("user", "again"), ("assistant", "yes yes")],
]
TEMPLATE = ("{% for m in messages %}{{ m['role'][0] + ':' + m['content'] }}{% if m['role'] == 'assistant' %}"
            "{{ '<|endoftext|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'a:' }}{% endif %}")
DOCUMENTS = [[(b * 7919 + k * k * 31 + 5 * k) % 96 for k in range(64)] + [96] for b in range(4)]


def make_tokenizer():
    characters = [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a"]
    vocabulary = {c: i for i, c in enumerate(characters)}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(os.path.join(OUT, "tokenizer.json"))
    return tokenizer


def encode(tokenizer, prompt, answer):
    before, after = tokenizer.encode(prompt).ids, tokenizer.encode(answer).ids
    return before + after + [tokenizer.token_to_id("<|endoftext|>")], len(before)


def log_probability(model, ids, prompt):
    x = torch.tensor([ids])
    log_p = torch.log_softmax(model(x).logits[0, :-1], -1)
    return log_p[range(prompt - 1, len(ids) - 1), x[0, prompt:]].sum()


def causal():
    return transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")


def cross_entropy(model, sequences):
    """The mean over what counts: (ids, which of them are targets) each."""
    losses = []
    for ids, counts in sequences:
        logits = model(torch.tensor([ids])).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        losses.append(each[torch.tensor(counts[1:])])
    return torch.cat(losses).mean()


def pretrain(_):
    model = causal()
    return curve(model.parameters(), lambda: cross_entropy(model, [(ids, [True] * len(ids)) for ids in DOCUMENTS]))


def sft(tokenizer):
    model, render, sequences = causal(), jinja2.Template(TEMPLATE).render, []
    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        ids, counts = [], []
        for i, message in enumerate(messages):
            before = render(messages=messages[:i], add_generation_prompt=message["role"] == "assistant")
            after = render(messages=messages[:i + 1])
            assert after.startswith(before)
            whole = tokenizer.encode(after).ids
            first = len(tokenizer.encode(before).ids)
            counts += [False] * (first - len(counts)) + [message["role"] == "assistant"] * (len(whole) - first)
            ids = whole
        assert 33 <= len(ids) - 1 <= 64, len(ids)
        sequences.append((ids, counts))
    return curve(model.parameters(), lambda: cross_entropy(model, sequences))


def dpo(tokenizer):
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    reference = copy.deepcopy(model).eval()
    pairs = [(encode(tokenizer, p, c), encode(tokenizer, p, r)) for p, c, r in PAIRS]
    with torch.no_grad():
        kept = [[log_probability(reference, *side) for side in pair] for pair in pairs]

    def loss():
        total = 0
        for pair, (chosen, rejected) in zip(pairs, kept):
            z = (log_probability(model, *pair[0]) - chosen) - (log_probability(model, *pair[1]) - rejected)
            total = total - torch.nn.functional.logsigmoid(BETA * z)
        return total / len(pairs)

    return curve(model.parameters(), loss, 5e-5)


def reward(tokenizer):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1, dtype=torch.float32,
                                                                            attn_implementation="eager")
    model.config.pad_token_id = None
    torch.nn.init.zeros_(model.score.weight)
    pairs = [(encode(tokenizer, p, c)[0], encode(tokenizer, p, r)[0]) for p, c, r in PAIRS]

    def loss():
        total = 0
        for chosen, rejected in pairs:
            z = model(torch.tensor([chosen])).logits[0, 0] - model(torch.tensor([rejected])).logits[0, 0]
            total = total - torch.nn.functional.logsigmoid(z)
        return total / len(pairs)

    return curve(model.parameters(), loss)


def value(tokenizer):
    model = transformers.AutoModel.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    head = torch.nn.Linear(model.config.hidden_size, 1, bias=False)
    torch.nn.init.zeros_(head.weight)
    examples = [encode(tokenizer, p, c) + (v,) for p, c, v in VALUES]

    def loss():
        errors = []
        for ids, prompt, v in examples:
            values = head(model(torch.tensor([ids])).last_hidden_state[0])[:, 0]
            errors.append((values[prompt - 1:-1] - v) ** 2 / 2)
        return torch.cat(errors).mean()

    return curve(list(model.parameters()) + list(head.parameters()), loss)


def curve(parameters, loss_of, lr=1e-3):
    parameters = list(parameters)
    matrices, vectors = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], lr=lr)
    rows = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rows.append([round(loss.item(), 7), round(norm.item(), 6)])
    return rows


os.makedirs(OUT, exist_ok=True)
with open(os.path.join(OUT, "pairs.jsonl"), "w") as out:
    for p, c, r in PAIRS:
        out.write(json.dumps({"prompt": p, "chosen": c, "rejected": r}) + "\n")
with open(os.path.join(OUT, "values.jsonl"), "w") as out:
    for p, c, v in VALUES:
        out.write(json.dumps({"prompt": p, "completion": c, "value": v}) + "\n")
with open(os.path.join(OUT, "chats.jsonl"), "w") as out:
    for chat in CHATS:
        out.write(json.dumps({"messages": [{"role": role, "content": content} for role, content in chat]}) + "\n")
with open(os.path.join(OUT, "chat_template.jinja"), "w") as out:
    out.write(TEMPLATE)
array.array("H", sum(DOCUMENTS, [])).tofile(open(os.path.join(OUT, "documents.bin"), "wb"))
made = make_tokenizer()
with open(os.path.join(OUT, "curves.json"), "w") as out:
    json.dump({"pretrain": pretrain(made), "sft": sft(made), "dpo": dpo(made), "reward": reward(made), "value": value(made)}, out)
    out.write("\n")
