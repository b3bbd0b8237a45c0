"""Training steps beside PyTorch's: SmolLM2-135M's shape, f32, forward, backward and AdamW, the same tokens a step; each
program in a process of its own, one after the other, medians of the steps after the first two, peak memory of the process.

    python bench/train.py DIPPER OUT.json [--threads 2] [--steps 6] [--shapes 1x256,4x128] [--compile] [--python PYTHON]

PYTHON has torch and transformers; without --python dipper is measured alone. JSON: {"date", "cpu", "threads", "rows": [{"program",
"shape", "tokens_per_s", "seconds" (of each step), "peak_mb"}]}"""
import argparse
import array
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
RECIPE = """import "{model}";
recipe bench for llama {{ pretrain {{ data "data.bin"; optimizer adamw {{ lr 1e-4; }} batch {batch}; length {length}; steps {steps}; }} }}
"""
TORCH = """
import sys, time, json, torch, transformers
batch, length, steps, threads, compiled = map(int, sys.argv[1:6])
torch.set_num_threads(threads)
config = transformers.LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, rope_theta=1e5, max_position_embeddings=8192)
torch.manual_seed(0)
model = transformers.LlamaForCausalLM(config).train()
run = torch.compile(model) if compiled else model
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
ids = torch.randint(0, 49152, (batch, length + 1))
for _ in range(steps):
    begin = time.perf_counter()
    optimizer.zero_grad()
    logits = run(ids[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 49152), ids[:, 1:].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(json.dumps(time.perf_counter() - begin), flush=True)
"""


def measured(command, **how):
    """Output, and the most memory that the process had resident, in MB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **how)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed: {status}")
    return out, usage.ru_maxrss / 1024


def dipper(program, batch, length, steps, threads):
    with tempfile.TemporaryDirectory() as folder:
        rng = random.Random(1)
        with open(f"{folder}/data.bin", "wb") as out:
            array.array("H", (rng.randrange(1, 49000) for _ in range(batch * (length + 1) * (steps + 2) * 2))).tofile(out)
        with open(f"{folder}/bench.dip", "w") as out:
            out.write(RECIPE.format(model=os.path.abspath(os.path.join(HERE, "../models/llama.dip")), batch=batch, length=length,
                                    steps=steps))
        # Each step is on a line of stderr: without --out nothing is written to disk between them.
        command = [program, "train", f"{folder}/bench.dip", "--weights", "random:1", "--threads", str(threads)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        lines = process.stderr.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit("\n".join(lines))
        rates = [float(line.split(" tok/s")[0].split()[-1]) for line in lines if " tok/s" in line]
        return [batch * length / rate for rate in rates if rate > 0], usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--shapes", default="1x256,4x128,1x2048")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--python")
    args = parser.parse_args()
    rows = []
    for shape in args.shapes.split(","):
        batch, length = map(int, shape.split("x"))
        runs = [("dipper", lambda: dipper(args.program, batch, length, args.steps, args.threads))]
        for compiled in [False] + [True] * args.compile:
            def torch(compiled=compiled):
                out, peak = measured([args.python, "-c", TORCH, str(batch), str(length), str(args.steps), str(args.threads),
                                      str(int(compiled))])
                return [float(line) for line in out.split()], peak
            if args.python:
                runs.append(("PyTorch, compiled" if compiled else "PyTorch", torch))
        for name, run in runs:
            seconds, peak = run()
            kept = seconds[2:] or seconds
            rows.append({"program": name, "shape": shape, "tokens_per_s": round(batch * length / statistics.median(kept), 1),
                         "seconds": [round(s, 4) for s in seconds], "peak_mb": round(peak)})
            print(json.dumps(rows[-1]), flush=True)
    with open("/proc/cpuinfo") as info:
        flags = [line for line in info if line.startswith(("model name", "cpu family"))][:2]
    with open(args.out, "w") as out:
        json.dump({"date": datetime.date.today().isoformat(), "cpu": " ".join(f.split(":")[1].strip() for f in flags),
                   "threads": args.threads, "rows": rows}, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main()
