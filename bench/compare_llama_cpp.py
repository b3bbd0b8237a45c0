#!/usr/bin/env python3
"""Prefill and decode beside llama.cpp, on the same files, in one run, interleaved.

    compare_llama_cpp.py --q4 MODEL.Q4_1.gguf [--dipper build/release/dipper] [--f16 MODEL.F16.gguf] [--rounds 5]

needs llama-cpp-python (built for this machine), gguf and numpy. Without --f16 the F16 copy of the file is made once and kept
in --cache; without --dipper llama.cpp is measured alone. Every round starts each program afresh, one after the other, for
each file and thread count, and every other round in the opposite order. A figure is the program's own timing of 512 prompt
tokens in one batch, the last one's logits wanted, and of 64 single-token steps after them, nothing sampled. Reported:
medians, smallest and largest, and the ratio of the medians. Other work on the machine shows in the spread, most of all
with as many threads as cores, and in the load average that the result file keeps for each round.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PREFILL, DECODE = 512, 64
RATES = ("prefill_tok_s", "decode_tok_s")
COSTS = ("load_s", "compile_s", "peak_rss_bytes")


def peer(path, threads, repeat):
    """One llama.cpp process: runs in the child that `measure` starts with --peer."""
    import llama_cpp as llama
    llama.llama_backend_init()
    begin = time.perf_counter()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()  # an f16 cache; flash attention where llama.cpp chooses it
    params.n_ctx, params.n_batch, params.n_ubatch = 1024, PREFILL, PREFILL
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    memory = llama.llama_get_memory(context)
    result = {"load_s": time.perf_counter() - begin, "prefill_tok_s": [], "decode_tok_s": []}
    tokens = (llama.llama_token * PREFILL)(*[(i * 37 + 11) % 49000 for i in range(PREFILL)])
    for _ in range(repeat + 1):
        llama.llama_memory_clear(memory, True)
        begin = time.perf_counter()
        assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, PREFILL)) == 0
        llama.llama_get_logits_ith(context, -1)  # waits
        result["prefill_tok_s"].append(PREFILL / (time.perf_counter() - begin))
        begin = time.perf_counter()
        for i in range(DECODE):
            one = (llama.llama_token * 1)(100 + i)
            assert llama.llama_decode(context, llama.llama_batch_get_one(one, 1)) == 0
            llama.llama_get_logits_ith(context, -1)
        result["decode_tok_s"].append(DECODE / (time.perf_counter() - begin))
    for key in RATES:
        result[key] = result[key][1:]  # the first pass warms caches and page tables
    # Not getrusage: its maximum still counts the process that forked this one. Python and numpy are about 45 MB of it.
    with open("/proc/self/status") as status:
        result["peak_rss_bytes"] = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps(result))


def run_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stderr.decode(errors='replace')[-2000:]}")
    return json.loads(done.stdout.decode().strip().splitlines()[-1])


def measure(arguments, files, programs):
    """{(file, threads): {program: {key: [values]}}}, and the load average before each round"""
    commands = {
        "dipper": lambda path, threads: [
            arguments.dipper, "bench", arguments.model, "--weights", path, "--threads", threads, "--prefill", str(PREFILL),
            "--decode", str(DECODE), "--repeat", str(arguments.repeat), "--json"],
        "llama.cpp": lambda path, threads: [
            sys.executable, os.path.abspath(__file__), "--peer", path, threads, str(arguments.repeat)]}
    figures, loads = {}, []
    for number in range(arguments.rounds):
        loads.append(os.getloadavg()[0])
        for name, path in files:
            for threads in arguments.threads.split(","):
                for program in programs if number % 2 == 0 else programs[::-1]:
                    result = run_json(commands[program](path, threads))
                    kept = figures.setdefault((name, int(threads)), {}).setdefault(program, {})
                    for key in RATES:
                        kept.setdefault(key, []).extend(result[key])
                    for key in COSTS:
                        if key in result:
                            kept.setdefault(key, []).append(result[key])
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    return figures, loads


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "samples": len(values)}


def summarize(figures, programs):
    rows = []
    for (name, threads), measured in figures.items():
        for key in RATES + COSTS:
            row = {"file": name, "threads": threads, "what": key}
            row.update({p: spread(measured[p][key]) for p in programs if key in measured[p]})
            if key in RATES and len(programs) == 2:
                row["ratio"] = row["dipper"]["median"] / row["llama.cpp"]["median"]
            rows.append(row)
    return rows


def show(rows, programs):
    print(f"{'file':5} {'threads':>7} {'':8}" + "".join(f" {p + ' tok/s':>26}" for p in programs) + "  ratio" * (len(programs) == 2))
    for row in rows:
        if row["what"] in RATES:
            cells = ["{median:8.1f} ({min:.1f}-{max:.1f})".format(**row[p]) for p in programs]
            print(f"{row['file']:5} {row['threads']:7} {row['what'].split('_')[0]:8}" + "".join(f" {c:>26}" for c in cells)
                  + (f" {row['ratio']:6.2f}" if "ratio" in row else ""))
    for row in rows:
        if row["what"] in COSTS:
            scale, unit = (1e-6, "MB") if row["what"] == "peak_rss_bytes" else (1, "s")
            cells = [f"{p} {row[p]['median'] * scale:.3g} {unit}" for p in programs if p in row]
            if cells:
                print(f"{row['file']:5} {row['threads']:7} {row['what'].rsplit('_', 1)[0]:8} {', '.join(cells)}")


def machine():
    """What the figures hold for."""
    facts = {}
    with open("/proc/cpuinfo") as source:
        for line in source:
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    vectors = [f for f in facts.get("flags", facts.get("Features", "")).split() if f.startswith(("avx", "amx", "asimd", "sve"))]
    return {"cpu": facts.get("model name", ""), "cpu family": facts.get("cpu family", ""), "cpu model": facts.get("model", ""),
            "vectors": vectors, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", nargs=3, metavar=("FILE", "THREADS", "REPEAT"), help=argparse.SUPPRESS)
    parser.add_argument("--dipper", help="without it llama.cpp is measured alone")
    parser.add_argument("--model", default=os.path.join(HERE, "..", "models", "llama.dip"))
    parser.add_argument("--q4", help="the Q4_1 GGUF file")
    parser.add_argument("--f16", help="its F16 copy; made in --cache when not given")
    parser.add_argument("--cache", default=os.path.join(HERE, ".cache"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=2, help="passes a round and program, after one that is not counted")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--out", help="default: bench/results/DATE.json")
    arguments = parser.parse_args()
    if arguments.peer:
        return peer(arguments.peer[0], int(arguments.peer[1]), int(arguments.peer[2]))
    if not arguments.q4:
        parser.error("--q4 is needed")

    import llama_cpp
    f16 = arguments.f16 or os.path.join(arguments.cache, os.path.basename(arguments.q4) + ".f16.gguf")
    if not arguments.f16 and not os.path.exists(f16):
        import f16_copy
        os.makedirs(arguments.cache, exist_ok=True)
        f16_copy.main(arguments.q4, f16 + ".part")
        os.replace(f16 + ".part", f16)
    programs = ["dipper", "llama.cpp"] if arguments.dipper else ["llama.cpp"]
    figures, loads = measure(arguments, [("Q4_1", arguments.q4), ("F16", f16)], programs)
    rows = summarize(figures, programs)
    show(rows, programs)
    out = arguments.out or os.path.join(HERE, "results", f"{datetime.date.today().isoformat()}.json")
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open(out, "w") as file:
        json.dump({"date": datetime.date.today().isoformat(), "machine": machine(), "peer": "llama-cpp-python " + llama_cpp.__version__,
                   "prefill": PREFILL, "decode": DECODE, "rounds": arguments.rounds, "repeat": arguments.repeat,
                   "load_average_before_each_round": loads, "rows": rows}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
