#!/bin/sh
# tests/gpu_bare.sh FOLDER: bench/gpu.mk builds bench/gpu.c with what a bare machine has: PATH holds a C compiler, make and
# the usual small programs, and no flex, bison, cmake or pkg-config; the parser comes from elsewhere. Then a check runs.
set -eu
cd "$(dirname "$0")/.."
out=$1
rm -rf "$out"
mkdir -p "$out/bin"
make -f bench/gpu.mk OUT="$out/made" BARE_GENERATED="$out/generated" generated
for program in sh cc gcc as ld ar make grep sed od cp rm mkdir echo cat; do
  path=$(command -v $program) && ln -sf "$path" "$out/bin/$program"
done
bare() { env -i PATH="$out/bin" HOME="$out" "$@"; }
if bare sh -c 'command -v bison || command -v flex || command -v pkg-config'; then
  echo "gpu_bare: the machine is not bare"; exit 1
fi
bare make -s -f bench/gpu.mk -j2 OUT="$out/build" BARE_GENERATED="$out/generated" CFLAGS="-O0 -DJANSSON_H -DPCRE2_H_IDEMPOTENT_GUARD" # their headers are empty then
bare "$out/build/gpu-bench" integers --device interp --model bench/gpu_integers.dip
bare "$out/build/gpu-bench" reference --device interp --model models/llama.dip --set vocab=100 --set d=64 --set layers=1 \
  --set heads=2 --set kv_heads=1 --set ff=64 --prompt 5 --count 2
if bare "$out/build/gpu-bench" first --device interp --model models/llama.dip --weights nothing.gguf 2>"$out/said"; then
  echo "gpu_bare: weights of a file were read"; exit 1
fi
grep -q "nothing.gguf\|without JSON" "$out/said"
rm -rf "$out"
