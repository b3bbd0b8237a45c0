"""Training steps beside PyTorch's and llm.c's, f32: forward, backward and AdamW of the same shape and as many tokens.
Rounds in which each program takes its steps, every other one in the opposite order: what else the machine does hits
all alike.

    python bench/train.py DIPPER OUT.json [--threads 2] [--rounds 3] [--steps 2] [--shapes 1x256,4x128,1x2048,gpt2:4x64]
                          [--python PYTHON [--compile]] [--llmc BINARY]

A shape is BATCHxLENGTH of SmolLM2-135M, or gpt2:BATCHxLENGTH of GPT-2 124M, weights at random. --steps: that count, of a
program in a round. Shapes of 1,024 tokens and more: half the steps, at most two rounds.

- dipper: a process a round; its first step does not count. Times are those between its lines, data and all.
- PYTHON has torch and transformers: PyTorch with scaled_dot_product_attention and fused AdamW; with --compile also
  torch.compile of model and loss (it needs a C++ compiler). A process a shape, which waits while others run; two steps
  first, not counted, and with them the time to compile.
- BINARY is llm.c's train_gpt2, run where it lies: gpt2_124M.bin and the token files are there, in its formats. For gpt2:4x64
  only, which is written into it. A process a round; its first step does not count.

JSON: {"date", "cpu", "threads", "rounds", "peak_gflop_s" (multiply-adds, the best that `dipper plan` measured in any round),
"rows": [{"program", "shape", "tokens_per_s", "median_s", "seconds" (of the steps that count, a list a round), "peak_mb" (the
most that the process had resident; of a compiled one with the compiler), "gflop" (of a step: products and attention, forward
and backward, nothing that is computed again), "share_of_peak"}], "ratios": [{"shape", "peer", "ratio" (median step of the
peer by dipper's: above 1 dipper is faster), "lowest", "highest" (of the rounds' medians)}]}. It is written after each
shape."""
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
import time

HERE = os.path.dirname(os.path.abspath(__file__))
RECIPE = """import "{model}";
recipe bench for {name} {{
  pretrain {{ data "data.bin"; optimizer adamw {{ lr 1e-4; }} batch {batch}; length {length}; steps {steps}; }}
}}
"""
# Takes the number of steps from each line that it reads, and writes the seconds of each.
TORCH = """
import sys, time, torch, transformers
name, batch, length, threads, compiled = sys.argv[1], *map(int, sys.argv[2:6])
torch.set_num_threads(threads)
torch.manual_seed(0)
if name == "gpt2":
    config = transformers.GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa")
    model = transformers.GPT2LMHeadModel(config).train()
else:
    config = transformers.LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, rope_theta=1e5, max_position_embeddings=8192,
        attn_implementation="sdpa")
    model = transformers.LlamaForCausalLM(config).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
ids = torch.randint(0, 49000, (batch, length + 1))
def loss_of(ids, targets):
    logits = model(ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
run = torch.compile(loss_of, dynamic=False) if compiled else loss_of
inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
for line in sys.stdin:
    for _ in range(int(line)):
        begin = time.perf_counter()
        optimizer.zero_grad()
        run(inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print("step", time.perf_counter() - begin, flush=True)
"""


def ended(process):
    """The most memory that it had resident, in MB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / 1024


class Shape:
    def __init__(self, text, args):
        self.text = text
        self.name, _, sizes = text.rpartition(":")
        self.batch, self.length = map(int, sizes.split("x"))
        self.tokens = self.batch * self.length
        long = self.tokens >= 1024
        self.steps = max(1, args.steps // 2) if long else args.steps
        self.rounds = min(2, args.rounds) if long else args.rounds
        self.name = self.name or "llama"

    def write(self, folder, steps):
        """A recipe of so many steps, and tokens for them."""
        rng = random.Random(1)
        with open(f"{folder}/data.bin", "wb") as out:
            count = self.length * self.batch * (steps + 2) + 1  # one document of so many whole pieces
            array.array("H", (rng.randrange(1, 49000) for _ in range(count))).tofile(out)
        with open(f"{folder}/bench.dip", "w") as out:
            model = os.path.abspath(os.path.join(HERE, f"../models/{self.name}.dip"))
            out.write(RECIPE.format(model=model, name=self.name, batch=self.batch, length=self.length, steps=steps))


class Dipper:
    title = "dipper"

    def __init__(self, args, shape):
        self.args, self.shape, self.peak_mb = args, shape, 0

    def command(self, verb, folder):
        return [self.args.program, verb, f"{folder}/bench.dip", "--weights", "random:1", "--threads", str(self.args.threads)]

    def plan(self):
        """FLOP of a step and the measured peak; the code is in the cache afterwards."""
        with tempfile.TemporaryDirectory() as folder:
            self.shape.write(folder, self.shape.steps + 1)
            out = subprocess.run(self.command("plan", folder) + ["--json"], capture_output=True, text=True)
        if out.returncode:
            sys.exit(f"dipper plan: {out.stderr}")
        plan = json.loads(out.stdout)
        return (plan["flop"] + plan["attention_flop"]) * plan["steps"], plan["peak_flop_s"]

    def round(self):
        steps = self.shape.steps + 1
        with tempfile.TemporaryDirectory() as folder:
            self.shape.write(folder, steps)
            # Each step is on a line of stderr; without --out nothing is written to disk between them.
            process = subprocess.Popen(self.command("train", folder), stderr=subprocess.PIPE, text=True)
            lines, times = [], []
            for line in process.stderr:
                lines.append(line)
                if " tok/s" in line:
                    times.append(time.perf_counter())
            self.peak_mb = max(self.peak_mb, ended(process))
        if process.returncode or len(times) != steps:
            sys.exit(f"dipper train: {''.join(lines)}")
        return [after - before for before, after in zip(times, times[1:])]

    def stop(self):
        pass


class Torch:
    def __init__(self, args, shape, compiled):
        self.title, self.shape = "PyTorch, compiled" if compiled else "PyTorch", shape
        words = [shape.name, shape.batch, shape.length, args.threads, int(compiled)]
        self.process = subprocess.Popen([args.python, "-c", TORCH, *map(str, words)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "OMP_NUM_THREADS": str(args.threads)})
        self.take(2)

    def take(self, steps):
        print(steps, file=self.process.stdin, flush=True)
        seconds = []
        while len(seconds) < steps:
            line = self.process.stdout.readline()
            if not line:
                sys.exit(f"{self.title} of {self.shape.text} ended")
            if line.startswith("step "):
                seconds.append(float(line.split()[1]))
        return seconds

    def round(self):
        return self.take(self.shape.steps)

    def stop(self):
        self.process.stdin.close()
        self.peak_mb = ended(self.process)


class Llmc:
    title = "llm.c"

    def __init__(self, args, shape):
        self.steps, self.args, self.peak_mb = shape.steps, args, 0
        if 1 + self.steps > 10:
            sys.exit("llm.c looks at other data again after 10 steps: take fewer --steps")

    def round(self):
        path, seconds = os.path.abspath(self.args.llmc), []
        process = subprocess.Popen(["stdbuf", "-oL", path], cwd=os.path.dirname(path), stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, "OMP_NUM_THREADS": str(self.args.threads)})
        for line in process.stdout:
            found = re.match(r"step \d+: .*took ([\d.]+) ms", line)
            if found:
                seconds.append(float(found.group(1)) / 1000)
            if len(seconds) == self.steps + 1:
                break
        process.kill()
        self.peak_mb = max(self.peak_mb, ended(process))
        if len(seconds) <= self.steps:
            sys.exit("llm.c ended before its last step")
        return seconds[1:]

    def stop(self):
        pass


def row_of(program, shape, rounds, flop):
    median = statistics.median(s for seconds in rounds for s in seconds)
    return {"program": program.title, "shape": shape.text, "tokens_per_s": round(shape.tokens / median, 1),
            "median_s": round(median, 4), "seconds": [[round(s, 4) for s in seconds] for seconds in rounds],
            "peak_mb": round(program.peak_mb), "gflop": round(flop / 1e9, 1)}


def ratio_of(peer, dipper):
    """Of medians; and of those of each round, the lowest and the highest."""
    rounds = [statistics.median(p) / statistics.median(d) for p, d in zip(peer["seconds"], dipper["seconds"])]
    return {"shape": peer["shape"], "peer": peer["program"], "ratio": round(peer["median_s"] / dipper["median_s"], 2),
            "lowest": round(min(rounds), 2), "highest": round(max(rounds), 2)}


def measure(args, shape):
    """Rows, dipper's first, and the measured peak."""
    flop, peak = Dipper(args, shape).plan()  # before all, as it compiles
    programs = [Dipper(args, shape)]
    if args.python:
        programs += [Torch(args, shape, compiled) for compiled in [False] + [True] * args.compile]
    if args.llmc and shape.text == "gpt2:4x64":
        programs.append(Llmc(args, shape))
    rounds = [[] for _ in programs]
    for i in range(shape.rounds):
        peak = max(peak, Dipper(args, shape).plan()[1])
        for j in range(len(programs)) if i % 2 == 0 else reversed(range(len(programs))):
            rounds[j].append(programs[j].round())
    for program in programs:
        program.stop()
    return [row_of(program, shape, *each, flop) for program, *each in zip(programs, rounds)], peak


def write(args, rows, peak):
    for row in rows:
        row["share_of_peak"] = round(row["gflop"] * 1e9 / row["median_s"] / peak, 3)
    firsts = {row["shape"]: row for row in rows if row["program"] == Dipper.title}
    ratios = [ratio_of(row, firsts[row["shape"]]) for row in rows if row["program"] != Dipper.title]
    with open("/proc/cpuinfo") as info:
        flags = [line for line in info if line.startswith(("model name", "cpu family"))][:2]
    with open(args.out, "w") as out:
        json.dump({"date": datetime.date.today().isoformat(), "cpu": " ".join(f.split(":")[1].strip() for f in flags),
                   "threads": args.threads, "rounds": args.rounds, "peak_gflop_s": round(peak / 1e9, 1), "rows": rows,
                   "ratios": ratios}, out, indent=1)
        out.write("\n")
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--shapes", default="1x256,4x128,1x2048,gpt2:4x64")
    parser.add_argument("--python")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--llmc")
    args = parser.parse_args()
    if not 1 <= args.steps < 20 or args.rounds < 1:  # of up to 20 steps dipper writes a line each
        parser.error("--steps is 1 to 19, --rounds at least 1")
    if args.compile and not args.python:
        parser.error("--compile needs --python: one that has torch")
    rows, peak, begin = [], 0, time.perf_counter()
    for shape in (Shape(text, args) for text in args.shapes.split(",")):
        new, measured = measure(args, shape)
        rows, peak = rows + new, max(peak, measured)
        ratios = write(args, rows, peak)
        for line in new + [ratio for ratio in ratios if ratio["shape"] == shape.text]:
            print(json.dumps(line))
        print(f"{time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
