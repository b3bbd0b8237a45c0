#!/bin/sh
# bench/run.sh: the comparison with llama.cpp, with what it needs in a cached virtual environment. Takes some minutes.
set -eu
cd "$(dirname "$0")/.."
cache=bench/.cache
if [ ! -x "$cache/venv/bin/python" ]; then
  mkdir -p "$cache"
  python3 -m venv "$cache/venv.part"
  CMAKE_ARGS="-DGGML_NATIVE=ON" "$cache/venv.part/bin/pip" install -q "llama-cpp-python==0.3.36" "gguf==0.19.0" numpy
  mv "$cache/venv.part" "$cache/venv"
fi
exec "$cache/venv/bin/python" bench/compare_llama_cpp.py --dipper build/release/dipper \
  --q4 build/weights/SmolLM2-135M-Instruct.Q4_1.gguf --cache "$cache" "$@"
