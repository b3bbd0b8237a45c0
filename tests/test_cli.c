/* tests/test_cli.c: the `dipper` command as a user meets it: what it prints where, exit codes, and one clear message
 * for each thing that can be wrong. Runs the real program. */
#include "base/base.h"

#include <check.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LLAMA DIPPER_SOURCE_DIR "/models/llama.dip"
#define TINY DIPPER_TEST_DIR "/golden/tiny_llama/model.safetensors"
#define SMOLLM2 DIPPER_SOURCE_DIR "/build/weights/SmolLM2-135M-Instruct.Q4_1.gguf"
/* A model that is made in no time. */
#define RANDOM                                                                                                         \
  "--weights random:7 --set vocab=96 --set d=64 --set layers=2 --set heads=4 --set kv_heads=2 --set ff=128 "

/* A recipe for it in t.dip, its data beside it. */
#define RECIPE                                                                                                         \
  "python3 -c \"open('data.bin','wb').write(bytes(b for i in range(4000) for b in (i * i % 96, 0)))\" && echo \"import \\\"$M\\\"; " \
  "recipe r for llama { pretrain { data \\\"data.bin\\\"; optimizer adamw { lr 1e-3; } batch 2; length 64; steps 3; } }\" >t.dip && "

static char folder[] = "/tmp/dipper-cli-XXXXXX";

typedef struct outcome {
  int code;
  char out[65536], err[65536];
} outcome;

static void read_back(const char *name, char *text, size_t size) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  ck_assert(file != NULL);
  size_t n = fread(text, 1, size - 1, file);
  text[n] = '\0';
  fclose(file);
}

/* Runs "dipper ARGUMENTS" in a shell; D stands for the scratch folder, M and W for a model and its weights. */
static outcome *run(const char *arguments) {
  static outcome result;
  char command[8192];
  snprintf(command, sizeof command,
           "cd %s && D=%s M=%s W=%s S=%s && export DIPPER_CACHE=$D/cache && dipper() { " DIPPER_COMMAND
           " \"$@\"; } && { %s ; } >out 2>err </dev/null",
           folder, folder, LLAMA, TINY, SMOLLM2, arguments);
  int state = system(command);
  result.code = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
  read_back("out", result.out, sizeof result.out);
  read_back("err", result.err, sizeof result.err);
  return &result;
}

typedef struct expectation {
  const char *arguments;
  int code;
  const char *in_error; /* NULL: nothing on stderr */
} expectation;

static const expectation mistakes[] = {
    {"dipper", 2, NULL},
    {"dipper rnu", 2, "did you mean 'run'?"},
    {"dipper run", 2, "wants MODEL.dip"},
    {"dipper run $M --wieghts x", 2, "did you mean '--weights'?"},
    {"dipper run $M --weights", 2, "wants a value"},
    {"dipper run $M --threads zero --weights $W -p x", 2, "whole number"},
    {"dipper run $M --threads 0 --weights $W -p x", 2, "between"},
    {"dipper run $M --temp hot --weights $W -p x", 2, "wants a number"},
    {"dipper run $M -n 5x --weights $W -p x", 2, "whole number"},
    {"dipper run $M extra --weights $W -p x", 2, "unexpected argument"},
    {"dipper run $M -p x", 2, "wants --weights"},
    {"dipper help rnu", 2, "did you mean 'run'?"},
    {"dipper check $M --threads 2", 2, "check has no flag '--threads'"},
    {"dipper run $M --weights $W --chat=yes", 2, "--chat takes no value"},
    {"dipper run $M --weights $W -p x --chat", 2, "exclude each other"},
    {"dipper run $M --weights $W -p x -n 99999999999999999999", 2, "whole number"},
    {"dipper run $M --weights $W -p x -n -1", 2, "-n must be between 0 and"},
    {"dipper run $M --weights $W -p x --temp nan", 2, "wants a number, not 'nan'"},
    {"dipper run $M --weights $W -p x --top-p 1.5", 2, "--top-p must be between 0 and 1"},
    {"dipper run $M --weights $W -p x --ctx 0", 2, "--ctx must be between 1 and"},
    {"dipper run $M --weights $W -p x --set layers", 2, "--set wants NAME=VALUE"},
    {"dipper logits $M --weights $W --tokens 1,2", 2, "wants --out"},
    {"dipper logits $M --weights $W --tokens 1,2 --out x.npy --chunk 0", 2, "--chunk must be between 1 and"},
    {"dipper ir $M --tile --asm", 2, "exclude each other"},
    {"dipper ir $M --tile --emit cu", 2, "exclude each other"},
    {"dipper ir $M --emit sass", 2, "--emit is cu, ptx or cubin, not 'sass'"},
    {"dipper graph $M", 2, "wants -o"},
    {"DIPPER_LIBCUDA=/nowhere dipper run $M --weights $S --device cuda -p x", 1, "NVIDIA's driver (/nowhere) is not installed"},
    {"dipper run $M --weights $S --device tpu -p x", 1, "a device is cpu, cuda or auto, not 'tpu'"},
    {"dipper weights save $M --out x", 2, "wants --weights and --out"},
    {"dipper run $M --weights $W --chat", 1, "no chat template"},
    {"dipper run $M --weights $S <&-", 1, "cannot read standard input"},
    {"dipper run $M --weights $S --raw -p ''", 1, "the prompt is empty"},
    {"dipper tokenize --weights $S --decode '1 49152'", 1, "49152"},
    {"printf a >a.txt; dipper eval $M --weights $S --perplexity a.txt", 1, "at least 2 tokens"},
    {"dipper eval $M --weights $S --perplexity nowhere.txt", 1, "No such file"},
    {"dipper logits $M --weights $W --tokens , --out x.npy", 1, "no token ids"},
    {"PATH=/nowhere; dipper graph $M -o g.svg", 1, "Graphviz's dot is not installed"},
    {"dipper ir $M >/dev/full", 1, "cannot write the output: No space left on device"},
    {"dipper ir $M >&-", 1, "cannot write the output: Bad file descriptor"},
    {"dipper ir $M -o /dev/full", 1, "cannot write '/dev/full': No space left on device"},
    {"dipper run $M --weights $S --raw -p 'Once upon a time' -n 300 >/dev/full", 1, "No space left on device"},
    {"dipper run nowhere.dip --weights $W -p x", 1, "No such file"},
    {"dipper plot", 2, "wants BENCH.json"},
    {"dipper plot nowhere.json", 1, "nowhere.json"},
    {"mkdir -p r0; dipper plot r0", 1, "r0/log.jsonl"},
    {": >e.jsonl; dipper plot e.jsonl", 1, "e.jsonl"},
    {"echo >e.jsonl; dipper plot e.jsonl", 1, "e.jsonl:1: the log has no steps"},
    {"printf '{\"step\":1,\"loss\":2}\\n\\n{\"step\":2,\"los' >e.jsonl; dipper plot e.jsonl", 1, "e.jsonl:3: not a line of JSON"},
    {"printf '{\"step\":1,\"loss\":2}\\n{\"step\":2}\\n' >e.jsonl; dipper plot e.jsonl", 1, "e.jsonl:2: not a line of a training log"},
    {"printf '[1]\\n' >e.jsonl; dipper plot e.jsonl", 1, "e.jsonl:1: not a line of a training log"},
    {"dipper plan", 2, "wants RECIPE.dip"},
    {"dipper plan $M", 1, "no recipe"},
    {"dipper plan nowhere.dip", 1, "No such file"},
    {"dipper plan $M --memory much", 2, "--memory wants a size such as 800M or 3G, not 'much'"},
    {"dipper plan $M --memory -1", 2, "--memory wants a size"},
    {"dipper plan $M --memory 3GG", 2, "--memory wants a size"},
    {RECIPE "dipper train t.dip " RANDOM "--memory 1M", 1, "are missing ("},
    {"echo '{' >p.json; dipper plot p.json", 1, "p.json"},
    {"echo '{\"rows\": []}' >p.json; dipper plot p.json", 1, "no rows"},
    {"echo '{\"rows\": [{\"group\": \"g\", \"programs\": {\"a\": {}}}]}' >p.json; dipper plot p.json", 1, "median"},
    {"echo '{\"rows\": [{\"group\": \"g\", \"programs\": {\"a\": {\"median\": 1}}}]}' >p.json; dipper plot p.json -o "
     "/nowhere/p.svg",
     1, "/nowhere/p.svg"},
    {"dipper run $D --weights $W -p x", 1, "is a directory"},
    {"dipper run $M --weights $D -p x", 1, "holds no weights"},
    {"dipper run $M --weights nowhere.gguf -p x", 1, "No such file"},
    {": >empty; dipper run empty --weights $W -p x", 1, "no model"},
    {": >empty; dipper run $M --weights empty -p x", 1, "is empty"},
    {"head -c 1000 $W >short; dipper run $M --weights short -p x", 1, "short"},
    {"head -c 100000 $S >short; dipper run $M --weights short -p x", 1, "short"},
    {"echo 'model m {' >bad.dip; dipper check bad.dip", 1, "bad.dip:"},
    {"sed 's/wq\\[l\\]/wqq[l]/' $M >bad.dip; dipper check bad.dip", 1, "did you mean 'wq'?"},
    {"dipper run $M --weights $S --set d=100 -p x", 1, "not a whole number"},
    {"dipper run $M --weights $S --set layrs=2 -p x", 1, "did you mean 'layers'?"},
    {"dipper run $M --weights $S --set layers=31 -p x", 1, "layer 30"},
    {"dipper run $M --weights $S --set ff=1600 -p x", 1, "1600"},
    {"dipper logits $M --weights $W --tokens 1,97 --out x.npy", 1, "out of range"},
    {"dipper logits $M --weights $W --tokens 1,-1 --out x.npy", 1, "'-1'"},
    {"dipper logits $M --weights $W --tokens 1,two --out x.npy", 1, "two"},
    {"dipper logits $M --weights $W --tokens @nowhere --out x.npy", 1, "No such file"},
    {"dipper logits $M --weights $W --tokens 1,2,3 --ctx 2 --out x.npy", 1, "context"},
    {"dipper logits $M --weights $W --tokens 1,2,3 --out /dev/full", 1, "No space left"},
    {"dipper logits $M --weights $W --tokens 1,2,3 --out nowhere/x.npy", 1, "No such file"},
    {"dipper logits $M --weights $W --tokens 1 --ctx 1000000000 --out x.npy", 1, "memory"},
    {"dipper logits $M --weights random:x --tokens 1 --out x.npy", 1, "random:"},
    {"dipper logits $M --weights random:1:bf17 --tokens 1 --out x.npy", 1, "'bf17' is no type"},
    {"dipper run $M --weights $W -p x", 1, "tokenizer"},
    {"dipper run $M --weights $S -p \"$(head -c 3000 $M)\" --ctx 64", 1, "context of 64"},
    {"dipper ir $M --dump-after=fsue", 1, "fuse"},
    {"dipper graph $M -o x.txt", 2, ".svg"},
    {"dipper weights sl $W", 2, "'ls'"},
    {"dipper weights save $M --weights $W --out x --dtype q4_1", 2, "q4_1"},
    {"dipper check $M --backend cuda9 >c; dipper logits $M --weights $W --tokens 1 --out x --backend cuda9", 1,
     "cuda9"},
};

START_TEST(each_mistake_gets_one_clear_message_and_its_exit_code) {
  const expectation *e = &mistakes[_i];
  outcome *r = run(e->arguments);
  ck_assert_msg(r->code == e->code, "%s: exit code %d, not %d; stderr: %s", e->arguments, r->code, e->code, r->err);
  if (e->in_error)
    ck_assert_msg(strstr(r->err, e->in_error) != NULL, "%s: '%s' is not in: %s", e->arguments, e->in_error, r->err);
  const char *error = strstr(r->err, "error: ");
  if (e->in_error)
    ck_assert_msg(error && !strstr(error + 1, "dipper: error: "), "%s: not one error: %s", e->arguments, r->err);
  if (e->in_error) ck_assert_msg(!r->out[0], "%s: on stdout: %s", e->arguments, r->out);
  ck_assert_msg(!strchr(r->err, '\033'), "%s: color without a terminal", e->arguments);
  ck_assert_msg(!strstr(r->err, "Sanitizer"), "%s: %s", e->arguments, r->err);
}
END_TEST

static const expectation uses[] = {
    {"dipper help", 0, NULL},
    {"dipper help run", 0, NULL},
    {"dipper run --help", 0, NULL},
    {"dipper version", 0, NULL},
    {"dipper check $M", 0, NULL},
    {"dipper ir $M --verify-each", 0, NULL},
    {"dipper ir $M --dump-after=all --weights $W", 0, NULL},
    {"dipper ir $M --tile", 0, NULL},
    {"dipper ir $M --llvm", 0, NULL},
    {"dipper devices", 0, NULL},
    {"dipper ir $M --emit cu", 0, NULL},
    {"dipper ir $M --asm --target-cpu x86-64-v3 --target-triple x86_64-pc-linux-gnu", 0, NULL},
    {"dipper graph $M -o g.dot && grep -q '30 layers' g.dot && dipper graph $M -o h.dot && cmp g.dot h.dot", 0, NULL},
    {"! command -v dot || { dipper graph $M -o g.svg && grep -q '<svg' g.svg; }", 0, NULL},
    {"dipper ir $M --tile -o t.txt && grep -q 'tile program' t.txt", 0, NULL},
    {"dipper weights ls $W", 0, NULL},
    {"dipper weights ls $S --json", 0, NULL},
    {"dipper weights save $M --weights random:7 --set layers=1 --set vocab=64 --out r.safetensors && dipper weights ls "
     "r.safetensors",
     0, NULL},
    {"B=" DIPPER_SOURCE_DIR "/tests/golden/tiny_bert; printf 'a cat\\na dog\\n' | dipper embed " DIPPER_SOURCE_DIR
     "/models/minilm.dip --weights $B --together 1 --out e.npy && dipper embed " DIPPER_SOURCE_DIR
     "/models/minilm.dip --weights $B 'a cat' >e.txt && python3 -c \"import struct; b = open('e.npy', 'rb').read(); "
     "t = open('e.txt').read().split(); n = len(t); head = b.index(b'\\n') + 1; assert head % 64 == 0 and b'(2, %d)' % n in b; "
     "row = struct.unpack('<%df' % n, b[head:head + 4 * n]); assert len(b) == head + 8 * n; "
     "assert all(abs(float(x) - y) < 1e-6 for x, y in zip(t, row))\"",
     0, NULL},
    {"dipper logits $M --weights $W --tokens 1,2,3 --out x.npy", 0, NULL},
    {"dipper tokenize --weights $S 'Hello, world!' | grep -qx '19556 28 905 17'", 0, NULL},
    {"dipper tokenize --weights $S 'naïve 你好 🙂' | dipper tokenize --weights $S --decode | grep -q 'naïve "
     "你好 "
     "🙂'",
     0, NULL},
    {"test -z \"$(dipper run $M --weights $S -p x -n 0)\"", 0, NULL},
    {"dipper run $M --weights $S -p 'What is the capital of France?' -n 20 | grep -q 'Paris'", 0, NULL},
    {"echo 'What is the capital of France?' | dipper run $M --weights $S -n 20 | grep -q Paris", 0, NULL},
    {"printf 'My name is Ada.\\n/reset\\nWhat is the capital of France?\\n/exit\\n' | dipper run $M --weights $S "
     "--chat -n 20 | grep -q Paris",
     0, NULL},
    {"dipper run $M --weights $S --raw -p 'The capital of France is' -n 3 --temp 1 --top-k 5 --seed 3 >a && dipper run "
     "$M --weights $S --raw -p 'The capital of France is' -n 3 --temp 1 --top-k 5 --seed 3 --threads 1 >b && cmp a b",
     0, NULL},
    {"dipper bench $M --weights $W --prefill 40 --decode 3 --repeat 1 --json", 0, NULL},
    {"echo '{\"date\": \"d<&\", \"rows\": [{\"group\": \"speed\", \"label\": \"f16 & more\", \"unit\": \"tok/s\", "
     "\"programs\": {\"dipper\": {\"median\": 20, \"min\": 10, \"max\": 30}, \"peer\": {\"median\": 5}}}]}' >p.json && "
     "dipper plot p.json -o p.svg && dipper plot p.json | cmp - p.svg && grep -q 'd&lt;&amp;' p.svg && "
     "grep -q '>f16 &amp; more<' p.svg && grep -q '>20.0<' p.svg && test $(grep -c 'class=\"p[01]\"' p.svg) = 4 && "
     "test $(grep -c 'class=\"w\"' p.svg) = 1",
     0, NULL},
    {"mkdir -p r1; for i in 1 2 3 4; do echo \"{\\\"step\\\":$i,\\\"loss\\\":$((5 - i)),\\\"grad_norm\\\":$i,\\\"lr\\\":0.00$i}\"; done >r1/log.jsonl && "
     "dipper plot r1 -o l.svg && dipper plot r1/ | sed 's,>r1/<,>r1<,' | cmp - l.svg && "
     "python3 -c \"import xml.etree.ElementTree as E; r = E.parse('l.svg').getroot(); "
     "d = {p.get('class'): p.get('d') for p in r.iter('{http://www.w3.org/2000/svg}path')}; "
     "assert d['loss'] == 'M70.0 66.0L340.0 166.0L610.0 266.0L880.0 366.0', d['loss']; "
     "assert d['norm'].startswith('M70.0 ') and d['rate'].endswith('L880.0 596.0'), d; "
     "t = [x.text for x in r.iter('{http://www.w3.org/2000/svg}text')]; "
     "assert 'r1' in t and t.count('4') >= 2 and '0.004' in t and 'step 4: loss 1.0000; lowest 1.0000 at step 4' in t, t\"",
     0, NULL},
    {"{ seq 1 3000 | awk '{printf \"{\\\"step\\\":%d,\\\"loss\\\":%.9g}\\n\", $1, 3 + 5 / $1}'; echo '{\"step\":2000,\"loss\":9}'; } >n.jsonl && "
     "dipper plot n.jsonl -o n.svg && test $(wc -c <n.svg) -lt 60000 && grep -q 'step 2000: loss 9.0000; lowest 3.0025 at step 1999' n.svg && "
     "grep -q 'class=\"smooth\"' n.svg",
     0, NULL},
    {RECIPE "dipper plan t.dip " RANDOM "| grep -q 'it fits' && dipper plan t.dip " RANDOM "--json --memory 1GiB | "
     "grep -q '\"available\":1073741824,.*\"fits\":true' && "
     "python3 -c \"import json, subprocess, sys; p = json.loads(subprocess.check_output(sys.argv[1:])); "
     "parts = 'weights gradients optimizer activations windows cache workers program reference data'.split(); "
     "assert p['peak'] == sum(p[k] for k in parts) and p['tokens'] == 128 and p['update_s'] > 0, p\" " DIPPER_COMMAND
     " plan t.dip " RANDOM "--json",
     0, NULL},
    {"dipper bench $M " RANDOM "--prefill 20 --decode 0 --repeat 1 --batch 3", 0, NULL},
    {"unset DIPPER_CACHE; XDG_CACHE_HOME=$D/xdg dipper logits $M " RANDOM "--tokens 1 --out x.npy && ls xdg/dipper/*",
     0, NULL},
    {"unset DIPPER_CACHE XDG_CACHE_HOME; HOME=$D/me dipper logits $M " RANDOM
     "--tokens 1 --out x.npy && ls me/.cache/dipper/*",
     0, NULL},
    {"dipper run $M --weights $S -p hi -n 200 | head -c 1 >/dev/null", 0, NULL},
    {"{ sleep 0.3; dipper ir $M --dump-after all; } | true", 0, NULL},
};

START_TEST(each_use_works_and_keeps_stderr_clean) {
  const expectation *e = &uses[_i];
  outcome *r = run(e->arguments);
  ck_assert_msg(r->code == e->code, "%s: exit code %d; stderr: %s", e->arguments, r->code, r->err);
  ck_assert_msg(r->err[0] == '\0', "%s: on stderr: %s", e->arguments, r->err);
}
END_TEST

START_TEST(logits_are_the_same_file_for_any_chunk_and_threads) {
  outcome *r =
      run("dipper logits $M --weights $S --tokens 1,5,9,200,1000,77,12,13,14,15,9000 --out a.npy --threads 1 && "
          "dipper logits $M --weights $S --tokens 1,5,9,200,1000,77,12,13,14,15,9000 --out b.npy --threads 2 --chunk 3 "
          "&& cmp a.npy b.npy && "
          "head -c 6 a.npy | tail -c 5 | grep -q NUMPY");
  ck_assert_msg(r->code == 0, "%s", r->err);
}
END_TEST

START_TEST(saved_weights_give_the_logits_of_the_file_they_came_from) {
  outcome *r = run("dipper weights save $M --weights $W --out s.safetensors && cp $(dirname $W)/config.json . && "
                   "dipper logits $M --weights $W --tokens 1,2,3 --out a.npy && dipper logits $M --weights "
                   "s.safetensors --tokens 1,2,3 --out b.npy && cmp a.npy b.npy");
  ck_assert_msg(r->code == 0, "%s", r->err);
}
END_TEST

START_TEST(a_second_start_compiles_nothing) {
  outcome *r = run("dipper bench $M --weights $W --prefill 4 --decode 1 --repeat 1 --json --cache-dir $D/fresh && "
                   "dipper bench $M --weights $W --prefill 4 --decode 1 --repeat 1 --json --cache-dir $D/fresh");
  ck_assert_int_eq(r->code, 0);
  char *first = strstr(r->out, "\"compiled\":true"), *second = strstr(r->out, "\"compiled\":false");
  ck_assert_msg(first && second && first < second, "%s", r->out);
}
END_TEST

START_TEST(without_a_gpu_the_cpu_serves_and_says_so) {
  static const char *const commands[] = {"run $M --weights $S --device auto -n 1 -p x",
                                         "logits $M --weights $S --device auto --tokens 1 --out x.npy"};
  for (size_t i = 0; i < DP_COUNT(commands); i++) {
    char command[256];
    snprintf(command, sizeof command, "DIPPER_LIBCUDA=/nowhere dipper %s", commands[i]);
    outcome *r = run(command);
    ck_assert_msg(r->code == 0 && strstr(r->err, "note: on the CPU: no GPU: NVIDIA's driver"), "%s", r->err);
  }
}
END_TEST

START_TEST(a_cache_that_cannot_be_written_is_no_failure) {
  outcome *r = run("dipper logits $M --weights $W --tokens 1,2 --out x.npy --cache-dir /proc/nowhere");
  ck_assert_msg(r->code == 0, "%s", r->err);
}
END_TEST

/* Interrupted as soon as something of the answer has come: no guess at how long that takes. */
START_TEST(every_command_explains_itself) {
  static const char *const commands[] = {"run", "logits", "eval",    "tokenize", "check",
                                         "ir",  "graph",  "weights", "bench",
                                         "embed", "trace", "profile", "plot", "train", "plan", "devices"};
  char line[200];
  for (size_t i = 0; i < DP_COUNT(commands); i++) {
    ck_assert_msg(strstr(run("dipper help")->out, commands[i]), "help does not name %s", commands[i]);
    snprintf(line, sizeof line, "dipper help %s >h && dipper %s --help | cmp - h && cat h", commands[i], commands[i]);
    outcome *r = run(line);
    ck_assert_msg(r->code == 0 && strstr(r->out, "Usage: dipper "), "%s", r->out);
    ck_assert_msg(strstr(r->out, "\nFlags:\n") && strstr(r->out, "\nExamples:\n"), "%s", r->out);
  }
}
END_TEST

START_TEST(a_device_named_as_output_is_not_replaced) {
  struct stat info;
  run("dipper logits $M " RANDOM "--tokens 1 --out /dev/full; dipper ir $M -o /dev/full");
  ck_assert(stat("/dev/full", &info) == 0 && S_ISCHR(info.st_mode));
  outcome *r = run("dipper logits $M " RANDOM "--tokens 1,96 --out left.npy; test ! -e left.npy");
  ck_assert_msg(r->code == 0, "a failed command left its output behind");
}
END_TEST

START_TEST(colors_are_for_terminals) {
  outcome *r = run("script -qec 'TERM=xterm " DIPPER_COMMAND " rnu' /dev/null");
  if (r->code != 2) return; /* there is no script here */
  ck_assert_msg(strchr(r->out, '\033'), "%s", r->out);
  r = run("script -qec 'NO_COLOR=1 TERM=xterm " DIPPER_COMMAND " rnu' /dev/null");
  ck_assert_msg(!strchr(r->out, '\033'), "%s", r->out);
}
END_TEST

START_TEST(an_answer_that_the_context_cuts_off_is_noted) {
  outcome *r = run("dipper run $M --weights $S -p 'Tell me a long story.' --ctx 64");
  ck_assert_msg(r->code == 0 && strstr(r->err, "note: the context of 64 tokens is full"), "%s", r->err);
  r = run("dipper run $M --weights $S -p 'Tell me a long story.' --ctx 64 -n 5");
  ck_assert_str_eq(r->err, "");
}
END_TEST

START_TEST(bench_writes_the_keys_that_programs_read) {
  outcome *r = run("dipper bench $M " RANDOM "--threads 1 --prefill 20 --decode 3 --repeat 4 --json");
  json_error_t error;
  json_t *json = json_loads(r->out, 0, &error);
  ck_assert_msg(json, "%s: %s", error.text, r->out);
  ck_assert_int_eq(json_array_size(json_object_get(json, "prefill_tok_s")), 4);
  ck_assert_int_eq(json_array_size(json_object_get(json, "decode_tok_s")), 4);
  ck_assert(json_number_value(json_array_get(json_object_get(json, "decode_tok_s"), 0)) > 0);
  ck_assert(json_number_value(json_object_get(json, "load_s")) > 0);
  ck_assert(json_is_number(json_object_get(json, "compile_s")));
  ck_assert(json_integer_value(json_object_get(json, "peak_rss_bytes")) > 1 << 20);
  json_decref(json);
}
END_TEST

START_TEST(logits_are_an_npy_file) {
  outcome *r = run("dipper logits $M " RANDOM "--tokens 1,2,3 --out x.npy && head -c 127 x.npy | tail -c 117");
  ck_assert_msg(strncmp(r->out, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 96), } ", 61) == 0, "%s",
                r->out);
  r = run("test $(wc -c <x.npy) = $((128 + 3 * 96 * 4))");
  ck_assert_int_eq(r->code, 0);
}
END_TEST

START_TEST(a_conversation_forgets_when_told) {
  outcome *r = run("printf 'Name a color.\\n\\nAnd another.\\n/reset\\nName a color.\\n' | "
                   "dipper run $M --weights $S --chat -n 16");
  size_t first = strcspn(r->out, "\n"), length = strlen(r->out);
  ck_assert_msg(first > 0 && 2 * first < length && strncmp(r->out, r->out + length - first - 1, first) == 0, "%s",
                r->out);
}
END_TEST

/* ---- interrupts: the command runs beside the test, writes to `spoken` in the folder, and reads from *input */

static pid_t start(const char *const *arguments, int *input) {
  char path[256];
  int ends[2];
  snprintf(path, sizeof path, "%s/spoken", folder);
  remove(path);
  ck_assert_int_eq(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    signal(SIGINT, SIG_DFL);
    dup2(ends[0], 0);
    close(ends[0]);
    close(ends[1]);
    if (freopen(path, "w", stdout)) execv(DIPPER_COMMAND, (char *const *)(uintptr_t)arguments);
    _exit(99);
  }
  close(ends[0]);
  *input = ends[1];
  return child;
}

/* Until it has written more than `size` bytes. */
static off_t wait_for_output(off_t size) {
  char path[256];
  struct stat info;
  snprintf(path, sizeof path, "%s/spoken", folder);
  for (int i = 0; i < 6000; i++) {
    if (stat(path, &info) == 0 && info.st_size > size) return info.st_size;
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  ck_abort_msg("no output");
  return 0;
}

static void check_exit(pid_t child, int code) {
  int state;
  ck_assert_int_eq(waitpid(child, &state, 0), child);
  ck_assert_msg(WIFEXITED(state) && WEXITSTATUS(state) == code, "ended with state %x, not exit code %d", state, code);
}

START_TEST(an_interrupt_stops_the_answer_and_says_so_by_exit_code) {
  int input;
  pid_t child = start((const char *[]){"dipper", "run", LLAMA, "--weights", SMOLLM2, "--raw", "-p", "One, two, three,",
                                       "--ctx", "8000", NULL},
                      &input);
  wait_for_output(0);
  kill(child, SIGINT);
  close(input);
  check_exit(child, 130);
}
END_TEST

START_TEST(an_interrupt_in_a_conversation_ends_the_answer_only) {
  static const char story[] = "Tell me a very long story about the sea.\n", goodbye[] = "Say hello.\n/exit\n";
  int input;
  pid_t child = start((const char *[]){"dipper", "run", LLAMA, "--weights", SMOLLM2, "--chat", NULL}, &input);
  ck_assert_int_eq(write(input, story, sizeof story - 1), sizeof story - 1);
  off_t size = wait_for_output(0);
  kill(child, SIGINT);
  nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
  ck_assert_int_eq(waitpid(child, NULL, WNOHANG), 0);
  ck_assert_int_eq(write(input, goodbye, sizeof goodbye - 1), sizeof goodbye - 1);
  close(input);
  check_exit(child, 0);
  ck_assert_int_gt(wait_for_output(size), size);
}
END_TEST

int main(void) {
  if (!mkdtemp(folder)) return 1;
  Suite *suite = suite_create("cli");
  TCase *tests = tcase_create("command");
  tcase_set_timeout(tests, 300);
  tcase_add_loop_test(tests, each_mistake_gets_one_clear_message_and_its_exit_code, 0, (int)DP_COUNT(mistakes));
  tcase_add_loop_test(tests, each_use_works_and_keeps_stderr_clean, 0, (int)DP_COUNT(uses));
  tcase_add_test(tests, logits_are_the_same_file_for_any_chunk_and_threads);
  tcase_add_test(tests, saved_weights_give_the_logits_of_the_file_they_came_from);
  tcase_add_test(tests, a_second_start_compiles_nothing);
  tcase_add_test(tests, without_a_gpu_the_cpu_serves_and_says_so);
  tcase_add_test(tests, a_cache_that_cannot_be_written_is_no_failure);
  tcase_add_test(tests, an_interrupt_stops_the_answer_and_says_so_by_exit_code);
  tcase_add_test(tests, every_command_explains_itself);
  tcase_add_test(tests, a_device_named_as_output_is_not_replaced);
  tcase_add_test(tests, colors_are_for_terminals);
  tcase_add_test(tests, an_answer_that_the_context_cuts_off_is_noted);
  tcase_add_test(tests, bench_writes_the_keys_that_programs_read);
  tcase_add_test(tests, logits_are_an_npy_file);
  tcase_add_test(tests, a_conversation_forgets_when_told);
  tcase_add_test(tests, an_interrupt_in_a_conversation_ends_the_answer_only);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  char command[256];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  if (system(command) != 0) failed++;
  return failed != 0;
}
