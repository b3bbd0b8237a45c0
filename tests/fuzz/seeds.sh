#!/bin/sh
# tests/fuzz/seeds.sh fuzz_NAME COMMAND...: runs the command with the directories that hold inputs for that target.
set -eu
cd "$(dirname "$0")"
name=$1
shift
case "$name" in
fuzz_language) set -- "$@" ../../models ../frontend/good ../frontend/bad ;;
fuzz_weights) set -- "$@" ../golden/tiny_gguf ;;
fuzz_tokenizer) set -- "$@" ../golden/wordpiece ;;
esac
exec "$@" "corpus/$name"
