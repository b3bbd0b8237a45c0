#!/bin/sh
# tests/fuzz/run.sh SECONDS: every fuzz target for so long, two at a time. What is found lies under build/fuzz/found and
# fails the run; inputs that reach new code are kept under build/fuzz/NAME for the next one.
set -eu
cd "$(dirname "$0")/../.."
build=$PWD/build/fuzz
seconds=$1
mkdir -p "$build/found"

fuzz() {
  mkdir -p "$build/$1"
  tests/fuzz/seeds.sh "$1" "$build/tests/fuzz/$1" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=3000 \
    -malloc_limit_mb=2000 -use_value_profile=1 -artifact_prefix="$build/found/$1-" -print_final_stats=1 "$build/$1" \
    >"$build/$1.log" 2>&1
}

report() {
  if wait "$2"; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$1.log")
    echo "$1: $runs inputs, $(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$build/$1.log" | tail -1) edges, nothing found"
  else
    tail -n 60 "$build/$1.log" >&2
    echo "$1: failed, see above and build/fuzz/found" >&2
    failed=1
  fi
}

failed=0
set -- tests/fuzz/fuzz_*.c
while [ $# -gt 0 ]; do
  first=$(basename "$1" .c)
  shift
  fuzz "$first" &
  first_job=$!
  second=
  if [ $# -gt 0 ]; then
    second=$(basename "$1" .c)
    shift
    fuzz "$second" &
    second_job=$!
  fi
  report "$first" "$first_job"
  [ -z "$second" ] || report "$second" "$second_job"
done
exit $failed
