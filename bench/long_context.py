"""Training at long context: one sequence a step of a small llama (4 layers of 256 columns, 4 heads, 2 of them for keys; random
weights), forward, backward and AdamW, at growing lengths; beside it PyTorch with scaled_dot_product_attention. Each program in
a process of its own, one after the other: the median of the steps after the first, peak memory of the process.

    python bench/long_context.py DIPPER OUT.json [--threads 2] [--steps 3] [--lengths 4096,8192,16384,32768] [--vocab 8192]
                                 [--recompute selective] [--python PYTHON] [--torch-most 32768]

PYTHON has torch and transformers; without --python dipper is measured alone, and beyond --torch-most too. JSON: {"date", "cpu",
"threads", "vocab", "peak_gflop_s" (2 threads of multiply-adds, by `dipper profile`), "rows": [{"program", "length",
"tokens_per_s", "seconds" (of each step), "peak_mb", "bytes_a_token" (of the growth since the length before), "gflop" (a step),
"share_of_peak"}]}. gflop: 6 a weight and token, but for the table of embeddings; and of attention 2 products forward, 5 backward,
half of them masked. What is computed again is not counted."""
import argparse
import array
import datetime
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPE = {"d": 256, "layers": 4, "heads": 4, "kv_heads": 2, "hd": 64, "ff": 768}
RECIPE = """import "{model}";
plan bench for llama {{ recompute {recompute}; }}
recipe bench for llama {{ pretrain {{ data "data.bin"; optimizer adamw {{ lr 1e-4; }} batch 1; length {length}; steps {steps}; }} }}
"""
TORCH = """
import sys, time, json, torch, transformers
length, steps, threads, vocab = map(int, sys.argv[1:5])
torch.set_num_threads(threads)
config = transformers.LlamaConfig(vocab_size=vocab, hidden_size=256, intermediate_size=768, num_hidden_layers=4, rope_theta=1e5,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=length,
    attn_implementation="sdpa")
torch.manual_seed(0)
model = transformers.LlamaForCausalLM(config).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
ids = torch.randint(0, vocab, (1, length + 1))
for _ in range(steps):
    begin = time.perf_counter()
    optimizer.zero_grad()
    logits = model(ids[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, vocab), ids[:, 1:].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(json.dumps(time.perf_counter() - begin), flush=True)
"""


def measured(command, **how):
    """What it wrote, and the most memory that the process had resident, in MB; None when it failed (of memory, say)."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        print(out[-500:], file=sys.stderr)
        return None
    return out, usage.ru_maxrss / 1024


def dipper(args, length):
    with tempfile.TemporaryDirectory() as folder:
        rng = random.Random(1)
        with open(f"{folder}/data.bin", "wb") as out:
            array.array("H", (rng.randrange(1, args.vocab - 1) for _ in range((length + 1) * (args.steps + 2)))).tofile(out)
        with open(f"{folder}/bench.dip", "w") as out:
            out.write(RECIPE.format(model=os.path.abspath(os.path.join(HERE, "../models/llama.dip")), length=length, steps=args.steps,
                                    recompute=args.recompute))
        sets = [word for name, value in {**SHAPE, "vocab": args.vocab}.items() for word in ("--set", f"{name}={value}")]
        command = [args.program, "train", f"{folder}/bench.dip", "--weights", "random:1", "--threads", str(args.threads), *sets]
        result = measured(command)
        if not result:
            sys.exit(f"{' '.join(command)} failed")
        out, peak = result
        rates = [float(rate) for rate in re.findall(r"([\d.]+) tok/s", out)]
        return [length / rate for rate in rates if rate > 0], peak


def torch(args, length):
    result = measured([args.python, "-c", TORCH, *map(str, (length, args.steps, args.threads, args.vocab))])
    return result and ([float(line) for line in result[0].split("\n") if re.fullmatch(r"[\d.e-]+", line)], result[1])


def gflop(args, length):
    s = SHAPE
    layer = s["d"] * s["hd"] * (2 * s["heads"] + 2 * s["kv_heads"]) + 3 * s["d"] * s["ff"]
    products = 6 * length * (s["layers"] * layer + args.vocab * s["d"])
    attention = 7 * length * length * s["heads"] * s["hd"] * s["layers"]
    return (products + attention) / 1e9


def peak_of(args):
    out = subprocess.run([args.program, "profile", os.path.join(HERE, "../models/llama.dip"), "--weights", "random:1", "--set", "layers=1",
                          "--threads", str(args.threads), "--prefill", "64", "--json"], capture_output=True, text=True)
    found = re.search(r'"flop_s":\s*([\d.e+]+)', out.stdout)
    return float(found.group(1)) / 1e9 if found else None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lengths", default="4096,8192,16384,32768")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--recompute", default="selective")
    parser.add_argument("--python")
    parser.add_argument("--torch-most", type=int, default=32768)
    args = parser.parse_args()
    peak, rows, before = peak_of(args), [], {}
    for length in map(int, args.lengths.split(",")):
        for name, run in [("dipper", dipper)] + [("PyTorch", torch)] * bool(args.python and length <= args.torch_most):
            result = run(args, length)
            if not result:
                rows.append({"program": name, "length": length, "failed": True})
                continue
            seconds, memory = result
            step, work = statistics.median(seconds[1:] or seconds), gflop(args, length)
            row = {"program": name, "length": length, "tokens_per_s": round(length / step, 1), "seconds": [round(s, 3) for s in seconds],
                   "peak_mb": round(memory), "gflop": round(work, 1)}
            if name in before:
                row["bytes_a_token"] = round((memory - before[name][1]) * 2**20 / (length - before[name][0]))
            if peak:
                row["share_of_peak"] = round(work / step / peak, 3)
            before[name] = (length, memory)
            rows.append(row)
            print(json.dumps(row), flush=True)
    with open("/proc/cpuinfo") as info:
        flags = [line for line in info if line.startswith(("model name", "cpu family"))][:2]
    with open(args.out, "w") as out:
        json.dump({"date": datetime.date.today().isoformat(), "cpu": " ".join(f.split(":")[1].strip() for f in flags),
                   "threads": args.threads, "vocab": args.vocab, "recompute": args.recompute, "peak_gflop_s": peak and round(peak, 1),
                   "rows": rows}, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main()
