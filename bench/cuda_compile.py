"""Seconds that NVRTC takes for the steps of models: no GPU is needed. A process a measurement; processor seconds of all its
threads beside those of the clock, as other work on the machine stretches only the latter.

    python bench/cuda_compile.py GPU_BENCH [OUT.json] [--repeat 3] [--arch sm_80,sm_90a,sm_100a] [--only NAME]

GPU_BENCH: bench/gpu.c's program. JSON: {"date", "cpu", "compiler", "rows": [{"model", "arch", "repeat", "wall_s", "cpu_s",
"lowest_cpu_s", "highest_cpu_s" (medians and range), "cubin_bytes"}]}."""
import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LLAMA_1B = ["vocab=128256", "d=2048", "layers=16", "heads=32", "kv_heads=8", "ff=8192"]
MODELS = [("SmolLM2-135M, f16", "compile", "llama.dip", [], "random:7:f16"), ("Llama-3.2-1B, bf16", "compile", "llama.dip", LLAMA_1B, "random:7:bf16"),
          ("GPT-2 124M, f32", "compile", "gpt2.dip", [], "random:7"), ("Mixtral-8x7B, bf16", "compile", "mixtral.dip", [], "random:7:bf16"),
          ("SmolLM2-135M, training, f32", "train-compile", "llama.dip", [], "random:7")]


def measure(program, part, model, sets, weights, arch):
    command = [program, part, "--model", f"models/{model}", "--weights", weights, "--arch", arch, "--repeat", "1", "--prompt", "256"]
    for value in sets:
        command += ["--set", value]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(out)


def rows(program, repeat=3, architectures=("sm_90a",), only=None):
    for name, part, model, sets, weights in MODELS:
        for arch in architectures:
            if only and only not in name:
                continue
            runs = [measure(program, part, model, sets, weights, arch) for _ in range(repeat)]
            cpu = sorted(r[1] for r in runs)
            yield {"model": name, "arch": arch, "repeat": repeat, "wall_s": round(statistics.median(r[0] for r in runs), 2),
                   "cpu_s": round(statistics.median(cpu), 2), "lowest_cpu_s": round(cpu[0], 2), "highest_cpu_s": round(cpu[-1], 2),
                   "cubin_bytes": runs[0][2]["bytes"]}, runs[0][2]["compiler"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--arch", default="sm_80,sm_90a,sm_100a")
    parser.add_argument("--only")
    a = parser.parse_args()
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "")
    result = {"date": datetime.date.today().isoformat(), "cpu": f"{cpu}, {os.cpu_count()} cores", "compiler": None, "rows": []}
    for row, compiler in rows(os.path.abspath(a.program), a.repeat, a.arch.split(","), a.only):
        result["compiler"] = compiler
        result["rows"].append(row)
        print(json.dumps(row), flush=True)
        if a.out:
            with open(a.out, "w") as file:
                json.dump(result, file, indent=1)
                file.write("\n")


if __name__ == "__main__":
    main()
