"""The model of bench/gpu.py in plain PyTorch: Llama of the same shape, weights at random, bf16.

    python bench/gpu_torch.py PARTS SHAPE SECONDS [--cpu]

PARTS: limits, decode, prefill, batch, train, by commas. SHAPE: vocab,d,layers,heads,kv_heads,ff,prompt,batch,context. A line
of JSON a result: {"part", "variant", "n", "median", "p10", "p90"}, seconds of a step, or {"part", "variant", "failed": why}.
Tokens are chosen on the device and the host waits only at the end of a run of 32 steps: the best that a loop can do."""
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

names = ("vocab", "d", "layers", "heads", "kv_heads", "ff", "prompt", "batch", "context")
shape = dict(zip(names, map(int, sys.argv[2].split(","))))
seconds = float(sys.argv[3])
device = "cpu" if "--cpu" in sys.argv else "cuda"
hd = shape["d"] // shape["heads"]


def wait():
    if device == "cuda":
        torch.cuda.synchronize()


def tell(part, variant, times=None, **more):
    row = {"part": part, "variant": variant, **more}
    if times:
        times = sorted(times)
        row.update(n=len(times), median=statistics.median(times), p10=times[len(times) // 10], p90=times[-1 - len(times) // 10])
    print(json.dumps(row), flush=True)


def measured(run, per=1, least=20):
    """Seconds of run() / per, after three that do not count, until the time is spent and `least` are done."""
    for _ in range(3):
        run()
    wait()
    times, begin = [], time.perf_counter()
    while len(times) < 2000 and (len(times) < least or time.perf_counter() - begin < seconds):
        if len(times) >= 3 and time.perf_counter() - begin > 4 * seconds:
            break
        before = time.perf_counter()
        run()
        wait()
        times.append((time.perf_counter() - before) / per)
    return times


class Llama(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        d, kv, ff = shape["d"], shape["kv_heads"] * hd, shape["ff"]

        def weight(*dims):
            return torch.nn.Parameter(torch.randn(*dims, device=device, dtype=dtype) / dims[-1] ** 0.5)

        self.embed = weight(shape["vocab"], d)
        self.qkv = torch.nn.ParameterList([weight(d + 2 * kv, d) for _ in range(shape["layers"])])
        self.wo = torch.nn.ParameterList([weight(d, d) for _ in range(shape["layers"])])
        self.gate_up = torch.nn.ParameterList([weight(2 * ff, d) for _ in range(shape["layers"])])
        self.down = torch.nn.ParameterList([weight(d, ff) for _ in range(shape["layers"])])
        self.norms = torch.nn.Parameter(torch.ones(2 * shape["layers"] + 1, d, device=device, dtype=dtype))
        turns = 5e5 ** (-torch.arange(0, hd, 2, device=device, dtype=torch.float32) / hd)
        angles = torch.arange(shape["context"], device=device)[:, None] * turns
        self.register_buffer("cos", torch.cat([angles, angles], 1).cos().to(dtype))
        self.register_buffer("sin", torch.cat([angles, angles], 1).sin().to(dtype))

    def turned(self, x, positions):  # x[B, heads, T, hd]
        a, b = x.chunk(2, -1)
        return x * self.cos[positions] + torch.cat([-b, a], -1) * self.sin[positions]

    def forward(self, ids, positions, cache=None, last=True):  # ids[B, T]
        B, T = ids.shape
        d, kv = shape["d"], shape["kv_heads"]
        x = F.embedding(ids, self.embed)
        mask = None
        if cache is not None:
            mask = (torch.arange(cache[0][0].shape[2], device=device)[None, :] <= positions[:, None])[None, None]
        for l in range(shape["layers"]):
            h = F.rms_norm(x, (d,), self.norms[2 * l], 1e-5) @ self.qkv[l].T
            q, k, v = h.split([d, kv * hd, kv * hd], -1)
            q = self.turned(q.view(B, T, -1, hd).transpose(1, 2), positions)
            k = self.turned(k.view(B, T, -1, hd).transpose(1, 2), positions)
            v = v.view(B, T, -1, hd).transpose(1, 2)
            if cache is not None:
                cache[l][0].index_copy_(2, positions, k)
                cache[l][1].index_copy_(2, positions, v)
                k, v = cache[l]
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=cache is None, enable_gqa=True)
            x = x + o.transpose(1, 2).reshape(B, T, d) @ self.wo[l].T
            gate, up = (F.rms_norm(x, (d,), self.norms[2 * l + 1], 1e-5) @ self.gate_up[l].T).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ self.down[l].T
        if last:
            x = x[:, -1:]
        return F.rms_norm(x, (d,), self.norms[2 * shape["layers"]], 1e-5) @ self.embed.T


def limits():
    if device != "cuda":
        raise RuntimeError("no GPU")
    a, b = (torch.empty(1 << 30, device=device, dtype=torch.uint8) for _ in range(2))
    tell("limits", "copy", measured(lambda: b.copy_(a)), bytes=2 << 30)
    del a, b
    n = 8192
    x, y = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    tell("limits", "matmul", measured(lambda: x @ y), flop=2 * n**3)


def step_of(model, batch):
    cache = [[torch.zeros(batch, shape["kv_heads"], shape["context"], hd, device=device, dtype=torch.bfloat16) for _ in range(2)]
             for _ in range(shape["layers"])]
    ids = torch.ones(batch, 1, device=device, dtype=torch.long)
    position = torch.full((1,), shape["prompt"], device=device, dtype=torch.long)

    def step():
        logits = model(ids, position, cache)
        ids.copy_(logits[:, -1].argmax(-1, keepdim=True))
        position.add_(1).clamp_(max=shape["context"] - 1)

    return step


def graph_of(step):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def many(step):
    def run():
        for _ in range(32):
            step()
    return run


def attempt(part, variant, make, **more):
    try:
        tell(part, variant, make(), **more)
    except Exception as error:  # a row of its own says why; the others go on
        tell(part, variant, failed=f"{type(error).__name__}: {error}"[:300])


@torch.no_grad()
def decode(model, batch=1, part="decode"):
    attempt(part, "eager", lambda: measured(many(step_of(model, batch)), 32))
    if device == "cuda":
        attempt(part, "cuda_graph", lambda: measured(many(graph_of(step_of(model, batch))), 32))
        attempt(part, "compiled", lambda: measured(many(graph_of(step_of(torch.compile(model, dynamic=False), batch))), 32))


@torch.no_grad()
def prefill(model):
    T = min(2048, shape["context"])
    ids = torch.ones(1, T, device=device, dtype=torch.long)
    positions = torch.arange(T, device=device)
    attempt("prefill", "eager", lambda: measured(lambda: model(ids, positions)))
    if device == "cuda":
        attempt("prefill", "compiled", lambda: measured(lambda r=torch.compile(model, dynamic=False): r(ids, positions)))


def train():
    model = Llama(torch.float32)
    T = min(2048, shape["context"])
    ids = torch.randint(0, shape["vocab"], (1, T + 1), device=device)
    positions = torch.arange(T, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def loss_of(inputs, targets):
        with torch.autocast(device, torch.bfloat16):
            logits = model(inputs, positions, last=False)
        return F.cross_entropy(logits.float().view(-1, shape["vocab"]), targets.view(-1))

    def update(loss):
        def run():
            optimizer.zero_grad()
            loss(ids[:, :-1], ids[:, 1:]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return run

    attempt("train", "eager", lambda: measured(update(loss_of)), tokens=T)
    if device == "cuda":
        attempt("train", "compiled", lambda: measured(update(torch.compile(loss_of, dynamic=False))), tokens=T)


def main():
    torch.manual_seed(0)
    tell("versions", "torch", torch=torch.__version__, cuda=torch.version.cuda)
    parts = sys.argv[1].split(",")
    model = Llama(torch.bfloat16) if {"decode", "prefill", "batch"} & set(parts) else None
    runs = {"limits": limits, "decode": lambda: decode(model), "prefill": lambda: prefill(model),
            "batch": lambda: decode(model, shape["batch"], "batch"), "train": train}
    for part in parts:
        try:
            runs[part]()
        except Exception as error:
            tell(part, "all", failed=f"{type(error).__name__}: {error}"[:300])


main()
