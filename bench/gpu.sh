#!/bin/sh
# bench/gpu.sh: checks and figures of a machine with a GPU, in under nine minutes, beside PyTorch where it is installed. It
# builds what it needs (bench/gpu.mk): a C compiler, make, NVRTC (the CUDA toolkit's or a wheel's) and Python 3 are enough.
#   bench/gpu.sh                 writes bench/results/DATE-gpu.json and prints it as a table
#   bench/gpu.sh --dry           without a GPU: tests/cuda's stand-ins, a tiny model, results in a temporary folder
#   bench/gpu.sh --program FILE  bench/gpu.c built already; --fakes FOLDER: the stand-ins of --dry; more: bench/gpu.py --help
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "gpu.sh: Python 3 is needed (PYTHON=...)" >&2; exit 1; }
exec "$python" bench/gpu.py "$@"
