"""bench/gpu.sh's steps: build, checks, figures, one JSON and one table. Each step has a time of its own within the whole; one
that fails leaves a row that says why, and the others go on. Exit status: 0 when every check that ran holds.

    python bench/gpu.py [--out FILE] [--minutes 8.5] [--dry] [--program FILE] [--fakes FOLDER] [--python PYTHON] [--only NAMES]

JSON: {"schema": "dipper-gpu-1", "date", "machine": {chip, driver, toolkit, compiler, torch, host, commit}, "dry", "seconds",
"limits": {copy_gb_s, matmul_tflop_s}, "checks": [{"name", "holds": true, false or null, "seconds", "said"}], "figures":
[{"name", "unit", "dipper": {"value", "median_s", "p10_s", "p90_s", "n"} or null, "peers": {name: the same}, "share": of the
limit that the row names, or null, "of", "failed": {who: why}, "more": {...}}]}. A value that was not measured is null."""
import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
LLAMA_1B = dict(vocab=128256, d=2048, layers=16, heads=32, kv_heads=8, ff=8192)
SMALL = dict(vocab=1000, d=256, layers=2, heads=4, kv_heads=2, ff=512)
TINY = dict(vocab=256, d=64, layers=2, heads=4, kv_heads=2, ff=96)


def parameters(s):
    hd = s["d"] // s["heads"]
    layer = s["d"] * (2 * s["heads"] * hd + 2 * s["kv_heads"] * hd + 3 * s["ff"])
    return s["layers"] * layer + s["vocab"] * s["d"]  # matrices, embeddings tied


class Bench:
    def __init__(self, arguments):
        self.a, self.begin = arguments, time.monotonic()
        self.end = self.begin + 60 * arguments.minutes
        self.dry = arguments.dry
        self.folder = tempfile.mkdtemp(prefix="dipper-gpu-")
        self.shape = TINY if self.dry else LLAMA_1B
        self.environment = dict(os.environ, DIPPER_CACHE=os.path.join(self.folder, "cache"))
        self.program, self.checks, self.figures, self.limits = arguments.program, [], [], {}
        self.machine, self.peers = {}, {}

    def left(self):
        return self.end - time.monotonic()

    def note(self, text):
        print(f"[{time.monotonic() - self.begin:5.0f} s] {text}", file=sys.stderr, flush=True)

    def call(self, command, limit, **environment):
        """(standard output, None) or (what there was of it, why not)."""
        limit = min(limit, self.left())
        if limit <= 1:
            return "", "no time was left"
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(command, stdout=out, stderr=errors, cwd=ROOT, env={**self.environment, **environment},
                                       start_new_session=True)
            why = None
            try:
                if process.wait(limit) != 0:
                    why = f"exit status {process.returncode}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                why = f"not done after {limit:.0f} s"
            out.seek(0)
            errors.seek(0)
            said = errors.read().strip().split("\n")
            return out.read(), why and (f"{why}: {said[-1]}" if said[-1] else why)

    def run(self, part, limit, shape=None, model="models/llama.dip", prefix=(), environment={}, **flags):
        command = [*prefix, self.program, part, "--model", model]
        for name, value in (shape or {}).items():
            command += ["--set", f"{name}={value}"]
        for name, value in flags.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        text, why = self.call(command, limit, **environment)
        if why:
            return None, why
        try:
            return json.loads(text.strip().split("\n")[-1]), None
        except ValueError:
            return None, f"no JSON: {text[-200:]}"

    # ---- build

    def build(self):
        out, fakes = os.path.join(self.folder, "build"), self.a.fakes
        jobs, targets = str(os.cpu_count() or 1), ["all"]
        if self.program and (fakes or not self.dry):
            targets = []
        elif self.program:
            targets = ["stand-ins"]
        elif self.dry and not fakes:
            targets = ["all", "stand-ins"]
        if targets:
            _, why = self.call(["make", "-f", "bench/gpu.mk", "-j", jobs, f"OUT={out}", *targets], 150)
            if why:
                sys.exit(f"gpu.py: the build failed: {why}")
        self.program = os.path.abspath(self.program or os.path.join(out, "gpu-bench"))
        if self.dry:
            folder = fakes or out
            self.environment.update(DIPPER_LIBCUDA=os.path.abspath(os.path.join(folder, "libfake_cuda.so")),
                                    DIPPER_NVRTC=os.path.abspath(os.path.join(folder, "libfake_nvrtc.so")))
        self.note("built")

    def look(self):
        def first(command):
            text, why = self.call(command, 20)
            return None if why else text.strip().split("\n")[-1].strip() or None

        device, why = self.run("device", 60)
        if why:
            sys.exit(f"gpu.py: no device: {why}")
        self.arch = device["arch"]
        driver = None if self.dry else first(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
        self.machine = {"chip": device["chip"], "processors": device["processors"], "memory": device["memory"], "driver": driver,
                        "toolkit": first(["nvcc", "--version"]) if shutil.which("nvcc") else None, "compiler": None, "torch": None,
                        "host": f"{platform.machine()}, {os.cpu_count()} cores",
                        "commit": first(["git", "rev-parse", "HEAD"]) if shutil.which("git") else None}

    # ---- checks

    def check(self, name, result, began):
        row, why = result
        self.checks.append({"name": name, "holds": why is None, "seconds": round(time.monotonic() - began, 1),
                            "said": why or {k: v for k, v in row.items() if k != "part"}})
        self.note(f"{name}: {'holds' if why is None else why}")
        return row

    def invariance(self):
        hashes = {}
        shape = TINY if self.dry else SMALL
        sizes = dict(prompt=20, count=2, batch=12, step_tokens=256, context=8192) if self.dry else \
            dict(prompt=150, count=8, batch=64, step_tokens=1024, context=16384)
        for weights in ("random:7:bf16",) if self.dry else ("random:7:bf16", "random:7", "random:7:q8_0"):
            for blocks in (0, 3) if self.dry else (0, 1, 7):
                began = time.monotonic()
                environment = {"DIPPER_CUDA_BLOCKS": str(blocks)} if blocks else {}
                grid = f"{blocks} blocks" if blocks else "a block an SM"
                row = self.check(f"alone, in chunks, token by token, among 8 and {sizes['batch']}: the same bits ({weights}, {grid})",
                                 self.run("invariance", 60, shape, weights=weights, environment=environment, **sizes), began)
                if row:
                    hashes.setdefault(weights, set()).add(row["hash"])
            if len(hashes.get(weights, ())) > 0:
                same = len(hashes[weights]) == 1
                self.check(f"any number of blocks: the same bits ({weights})", ({}, None if same else "the hashes differ"), time.monotonic())

    def numbers(self):
        shape = TINY if self.dry else SMALL
        for weights in ("random:7:bf16",) if self.dry else ("random:7:bf16", "random:7"):
            began = time.monotonic()
            self.check(f"logits beside the interpreter's ({weights})",
                       self.run("reference", 90, shape, weights=weights, prompt=20 if self.dry else 100, count=2, step_tokens=512), began)
        for weights in ("random:7:bf16",) if self.dry else ("random:7:bf16", "random:7:f16", "random:7"):
            began = time.monotonic()
            self.check(f"products of small whole numbers are exact ({weights})",
                       self.run("integers", 60, model="bench/gpu_integers.dip", weights=weights), began)

    def sanitize(self):
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        for name in ("memcheck", "racecheck"):
            if self.dry or not os.path.exists(tool):
                self.checks.append({"name": f"compute-sanitizer {name}", "holds": None, "seconds": 0, "said": "not run: no device, or no such program"})
                continue
            began = time.monotonic()
            self.check(f"compute-sanitizer {name}", self.run("first", 45, TINY, prompt=20, step_tokens=64, context=256,
                       prefix=(tool, "--tool", name, "--error-exitcode", "9", "--print-limit", "3")), began)

    # ---- figures

    def figure(self, name, unit, result, scale, samples="step_s", share=None, of=None, peer=None, **more):
        """scale(seconds) -> value; share(value, seconds) -> share of the limit `of`, where that is known."""
        row, why = result
        figure = {"name": name, "unit": unit, "dipper": None, "peers": {}, "share": None, "of": of, "failed": {}, "more": more}
        times = row and row.get(samples)
        if times:
            figure["dipper"] = {"value": scale(times["median"]), "median_s": times["median"], "p10_s": times["p10"],
                                "p90_s": times["p90"], "n": times["n"]}
            figure["share"] = share(times["median"]) if share else None
            figure["more"].update({k: v for k, v in row.items() if k not in ("part", samples) and not isinstance(v, dict)})
        else:
            figure["failed"]["dipper"] = why or "nothing was measured"
        for (part, variant), peer_row in self.peers.items():
            if part != peer:
                continue
            if "failed" in peer_row:
                figure["failed"]["PyTorch " + variant] = peer_row["failed"]
            else:
                figure["peers"]["PyTorch " + variant] = {"value": scale(peer_row["median"]), "median_s": peer_row["median"],
                                                         "p10_s": peer_row["p10"], "p90_s": peer_row["p90"], "n": peer_row["n"]}
        self.figures.append(figure)
        self.note(f"{name}: {figure['dipper']['value'] if figure['dipper'] else figure['failed']['dipper']}")

    def torch(self, parts, limit):
        if self.dry or self.left() < 20:
            reason = "a dry run" if self.dry else "no time was left"
            self.peers.update({(p, "all"): {"failed": reason} for p in parts.split(",")})
            return
        shape = dict(self.shape, prompt=16, batch=64, context=2048)
        numbers = ",".join(str(shape[k]) for k in ("vocab", "d", "layers", "heads", "kv_heads", "ff", "prompt", "batch", "context"))
        text, why = self.call([self.a.python, "bench/gpu_torch.py", parts, numbers, "3"], limit)
        told = set()
        for line in text.split("\n"):
            if line.startswith("{"):
                row = json.loads(line)
                self.peers[row["part"], row["variant"]] = row
                told.add(row["part"])
        for part in parts.split(","):
            if part not in told and why:
                self.peers[part, "all"] = {"failed": why}
        if ("versions", "torch") in self.peers:
            self.machine["torch"] = self.peers["versions", "torch"]["torch"]
        for key, name, unit in (("copy", "copy_gb_s", "bytes"), ("matmul", "matmul_tflop_s", "flop")):
            row = self.peers.get(("limits", key))
            if row and "median" in row:
                self.limits[name] = row[unit] / row["median"] / (1e9 if unit == "bytes" else 1e12)
        self.note(f"PyTorch {parts}: {why or 'done'}")

    def share_of(self, limit, amount, unit):
        return lambda seconds: amount / seconds / unit / self.limits[limit] if limit in self.limits else None

    def measure(self):
        s, n = self.shape, parameters(self.shape)
        quick = dict(repeat=2, seconds=0.2, count=8) if self.dry else dict(repeat=20, seconds=5)
        name = "Llama-3.2-1B's shape, bf16" if not self.dry else "a tiny Llama"
        cost = dict(weights="random:7:bf16", kv="f16")
        prompt = 40 if self.dry else 2048

        def rate(amount):
            return lambda seconds: amount / seconds

        self.torch("limits,decode,prefill", 130)
        self.figure(f"decode, one sequence: {name}", "tok/s", self.run("decode", 60, s, **cost, **{**quick, "count": quick.get("count", 200)}),
                    rate(1), share=self.share_of("copy_gb_s", 2 * n, 1e9), of="copy bandwidth", peer="decode")
        self.figure(f"prefill of {prompt} tokens: {name}", "tok/s", self.run("prefill", 60, s, **cost, **quick, prompt=prompt, step_tokens=prompt),
                    rate(prompt), share=self.share_of("matmul_tflop_s", 2 * (n - s["vocab"] * s["d"]) * prompt, 1e12), of="matrix peak", peer="prefill")
        batch = 4 if self.dry else 64
        result = self.run("batch", 70, s, **cost, **{**quick, "count": 8}, batch=batch, context=320 * batch + 4096)
        if result[0]:
            self.check(f"decode of {batch} together and of one alone: the same bits ({name})",
                       (result[0], None if result[0]["same_bits"] else "bits differ"), time.monotonic())
        self.torch("batch", 60)
        self.figure(f"decode, {batch} sequences together: {name}", "tok/s", result, rate(batch), samples="together_s", peer="batch")
        self.figure("decode, one sequence by the same loop", "tok/s", result, rate(1), samples="alone_s")
        self.figure("a step of a tiny model: what a launch costs", "us", self.run("decode", 40, TINY, **cost, **quick), lambda t: t * 1e6)
        self.first_token(s, cost)
        self.figure(f"training step of {prompt} tokens: {name}, masters in f32", "tok/s",
                    self.run("train", 25 if self.dry else 90, s, model="bench/gpu_bf16.dip", prompt=prompt, repeat=2 if self.dry else 5, seconds=quick["seconds"]),
                    rate(prompt), share=self.share_of("matmul_tflop_s", 6 * n * prompt, 1e12), of="matrix peak (MFU)", peer="train")
        self.compile_times(s)
        self.torch("train", 80)
        for figure in self.figures:  # the last peer came after its row
            if figure["name"].startswith("training"):
                for (part, variant), row in self.peers.items():
                    if part == "train" and "median" in row:
                        figure["peers"]["PyTorch " + variant] = {"value": prompt / row["median"], "median_s": row["median"],
                                                                 "p10_s": row["p10"], "p90_s": row["p90"], "n": row["n"]}
                    elif part == "train":
                        figure["failed"]["PyTorch " + variant] = row["failed"]

    def first_token(self, shape, cost):
        for kind in ("the code compiled", "the code cached"):
            environment = {"DIPPER_CACHE": os.path.join(self.folder, "fresh")}
            before = time.monotonic()
            row, why = self.run("first", 60, shape, **cost, environment=environment)
            took = time.monotonic() - before
            if row:
                row["process_s"] = {"n": 1, "median": took, "p10": took, "p90": took}
            self.figure(f"exec to first token, weights made at random included, {kind}", "s", (row, why), lambda t: t, samples="process_s")

    def compile_times(self, shape):
        models = [("Llama-3.2-1B's shape", "models/llama.dip", shape, False), ("GPT-2", "models/gpt2.dip", {}, False),
                  ("Mixtral", "models/mixtral.dip", {}, False), ("training of Llama-3.2-1B's shape", "bench/gpu_bf16.dip", shape, True)]
        for name, model, sets, trains in models[:1] if self.dry else models:
            row, why = self.run("train-compile" if trains else "compile", 70, sets, model, arch=self.arch, repeat=1, prompt=2048)
            if row:
                self.machine["compiler"] = row["compiler"]
            self.figure(f"compile, {self.arch}: {name}", "s", (row, why), lambda t: t, samples="compile_s")

    # ---- what is told

    def table(self):
        m = self.machine
        lines = [f"{datetime.date.today().isoformat()}: {m.get('chip')}, driver {m.get('driver') or '–'}, toolkit {m.get('toolkit') or '–'}, "
                 f"{m.get('compiler') or 'NVRTC –'}, PyTorch {m.get('torch') or '–'}", ""]
        lines += ["| check | |", "|---|---|"]
        words = {True: "holds", False: "**does not hold**", None: "not run"}
        for c in self.checks:
            lines.append(f"| {c['name']} | {words[c['holds']]}{'' if c['holds'] else ': ' + str(c['said'])} |")
        lines += ["", "| what | dipper | share | PyTorch | not measured |", "|---|---|---|---|---|"]

        def number(x):
            return f"{x:,.4g}" if x < 1e4 else f"{x:,.0f}"

        for f in self.figures:
            own = f["dipper"]
            text = f"{number(own['value'])} {f['unit']} ({own['n']} times, {number(own['p10_s'] * 1e3)} to {number(own['p90_s'] * 1e3)} ms)" if own else ""
            share = f"{100 * f['share']:.1f} % of the {f['of']}" if f["share"] is not None else ""
            peers = "; ".join(f"{name[8:]} {number(p['value'])}" for name, p in f["peers"].items())
            failed = "; ".join(f"{who}: {why}" for who, why in f["failed"].items()).replace("|", "/").replace("\n", " ")
            lines.append(f"| {f['name']} | {text} | {share} | {peers} | {failed} |")
        return "\n".join(lines)

    def write(self):
        name = f"{datetime.date.today().isoformat()}-gpu.json"
        out = self.a.out or os.path.join(self.folder if self.dry else os.path.join(HERE, "results"), name)
        with open(out, "w") as file:
            json.dump({"schema": "dipper-gpu-1", "date": datetime.date.today().isoformat(), "machine": self.machine, "dry": self.dry,
                       "seconds": round(time.monotonic() - self.begin, 1), "limits": self.limits, "checks": self.checks,
                       "figures": self.figures}, file, indent=1)
            file.write("\n")
        with open(os.path.splitext(out)[0] + ".md", "w") as file:
            file.write(self.table() + "\n")
        return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--program")
    parser.add_argument("--fakes")
    parser.add_argument("--python", default=sys.executable, help="one that has torch")
    parser.add_argument("--only", help="of: invariance, numbers, sanitize, measure; by commas")
    a = parser.parse_args()
    bench = Bench(a)
    steps = {"invariance": bench.invariance, "numbers": bench.numbers, "measure": bench.measure, "sanitize": bench.sanitize}
    try:
        bench.build()
        bench.look()
        for name in a.only.split(",") if a.only else steps:
            try:
                steps[name]()
            except Exception as error:
                bench.checks.append({"name": f"the step '{name}' of this script", "holds": False, "seconds": 0, "said": repr(error)})
                bench.note(f"{name}: {error!r}")
            bench.write()
        out = bench.write()
        print(bench.table())
        if a.out or not a.dry:
            print(f"\n{out}")
    finally:
        shutil.rmtree(bench.folder, ignore_errors=True)
    return 1 if any(c["holds"] is False for c in bench.checks) or not bench.checks else 0


if __name__ == "__main__":
    sys.exit(main())
