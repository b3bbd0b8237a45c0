/* tools/dipper.c: the `dipper` command: the table of commands, finding one, showing help. */
#include "tools/cli.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define MODEL_FLAGS "--weights --set --cache-dir --backend --verify-each"
#define RUN_FLAGS MODEL_FLAGS " --adapter --threads --ctx --kv-type --target-cpu --target-features --tokenizer"

static const cli_command commands[] = {
    {.name = "run",
     .arguments = "MODEL.dip --weights FILE [-p PROMPT | --chat]",
     .flags = RUN_FLAGS " --device -p --chat --raw -n --temp --top-k --top-p --min-p --seed --stats --json",
     .required = "--weights",
     .summary = "answer a prompt, or hold a conversation",
     .description =
         "Writes what the model says to stdout as it comes. The prompt is -p's, or standard input. When the weights\n"
         "bring a chat template the prompt becomes a user's message (of standard input the last line's end is\n"
         "dropped); --raw feeds it as it is. Ctrl-C stops the answer, with exit status 130.\n\n"
         "With --chat each line is a message, and the history stays in the KV cache. Ctrl-C stops the answer only,\n"
         "/reset forgets the conversation, /exit or Ctrl-D ends it.\n\n"
         "With --stats, or when stderr is a terminal, a line of figures follows on stderr.",
     .examples = "  dipper run models/llama.dip --weights SmolLM2-135M-Instruct.Q4_1.gguf -p 'Why is the sky blue?'\n"
                 "  dipper run models/llama.dip --weights model.safetensors --chat --temp 0.7 --top-p 0.9\n"
                 "  echo 'Once upon a time' | dipper run models/llama.dip --weights model.gguf --raw -n 100\n",
     .least = 1,
     .most = 1,
     .run = cli_run},
    {.name = "logits",
     .arguments = "MODEL.dip --weights FILE --tokens LIST --out FILE.npy",
     .flags = RUN_FLAGS " --device --tokens --chunk --out",
     .required = "--weights --tokens --out",
     .summary = "every position's logits",
     .description =
         "Writes an .npy file of f32 [tokens, vocabulary]. How the tokens are cut into steps (--chunk), and how many\n"
         "threads run, does not change a bit of it.",
     .examples =
         "  dipper logits models/llama.dip --weights model.gguf --tokens 1,2,3 --out logits.npy\n"
         "  dipper logits models/llama.dip --weights random:7 --set layers=2 --tokens @ids.txt --out logits.npy\n",
     .least = 1,
     .most = 1,
     .run = cli_logits},
    {.name = "eval",
     .arguments = "MODEL.dip --weights FILE --perplexity FILE.txt",
     .flags = RUN_FLAGS " --device --perplexity --json",
     .required = "--weights --perplexity",
     .summary = "the perplexity of a text",
     .description =
         "exp of the mean negative log-likelihood of tokens 1 .. n-1, in one window, or in windows of the context's\n"
         "length. The text is not put through the chat template.",
     .examples = "  dipper eval models/llama.dip --weights model.gguf --perplexity text.txt --json\n",
     .least = 1,
     .most = 1,
     .run = cli_eval},
    {.name = "embed",
     .arguments = "MODEL.dip --weights DIR [TEXT]",
     .flags = RUN_FLAGS " --together --json --out",
     .required = "--weights",
     .summary = "texts to vectors",
     .description = "Reads TEXT, or standard input with a text a line, and prints a line of numbers for each: what an\n"
                    "encoder such as models/minilm.dip gives for it. With --json: an array of arrays. With --out: an\n"
                    ".npy file of f32 [texts, dimensions].",
     .examples = "  dipper embed models/minilm.dip --weights all-MiniLM-L6-v2 'A cat sat on the mat.'\n"
                 "  dipper embed models/minilm.dip --weights all-MiniLM-L6-v2 --json < sentences.txt\n",
     .least = 1,
     .most = 2,
     .run = cli_embed},
    {.name = "compile",
     .arguments = "MODEL.dip --emit KIND -o FILE [--weights FILE]",
     .flags = MODEL_FLAGS " --plan --kv-type --threads --target --embed --launcher --emit --report -o",
     .required = "--emit -o",
     .summary = "a model to a program that needs neither dipper nor LLVM",
     .description =
         "exe: a command that runs the model as `dipper run` does. so: a shared library with a C interface, header: that\n"
         "interface for this model. obj: the ELF object alone, the one that `dipper run` loads. weights: the weights packed\n"
         "for the model, which all processes map and share: FILE.weights beside an executable FILE is found by it. cu, ptx,\n"
         "cubin: the code for a GPU, for other tools.\n\n"
         "--weights gives the dimensions and the types that the code reads; --embed puts the weights inside. With several\n"
         "--target the file holds code for each, and takes the best that its machine has: a GPU's, where there is one that it\n"
         "has code for. No compiler and no linker is needed; for GPUs NVRTC is, here and not where the file runs.",
     .examples = "  dipper compile models/llama.dip --weights model.gguf --embed --emit exe -o chat && ./chat -p Hello\n"
                 "  dipper compile models/llama.dip --weights model.gguf --target x86-64-v3 --target x86-64-v4 --emit exe -o chat\n"
                 "  dipper compile models/llama.dip --weights model.gguf --target x86-64-v3 --target sm_90a --target ptx --emit exe -o chat\n"
                 "  dipper compile models/llama.dip --weights model.gguf --emit weights -o chat.weights\n",
     .least = 1,
     .most = 1,
     .run = cli_compile},
    {.name = "train",
     .arguments = "RECIPE.dip --weights FILE [--data FILE] [--out DIR]",
     .flags = MODEL_FLAGS " --device --adapter --tokenizer --plan --recipe --data --out --resume --steps --threads --memory",
     .required = "--weights",
     .summary = "carry out a recipe: train a model",
     .description =
         "Trains from the weights (of any type: they become f32) on the data, and prints the loss. With --out, checkpoints\n"
         "go to DIR/step-NNNNNNNN, which transformers and dipper load, and a line of JSON a step to DIR/log.jsonl.\n"
         "--resume goes on from the newest whole one: the weights are then, to the last bit, those of a run that was\n"
         "never interrupted. Ctrl-C stops after the step under way, with a checkpoint. --steps: instead of the recipe's.\n"
         "--device cuda: weights, gradients and moments live on the GPU; but of `weights bf16` checkpoints are the CPU's.\n"
         "MFU: products of forward and backward, without attention's, in the multiply-add peak measured at the start.",
     .examples = "  dipper train tune.dip --weights SmolLM2-135M-Instruct.Q4_1.gguf --data chat.jsonl --out run\n"
                 "  dipper run models/llama.dip --weights run/step-00000100 --tokenizer SmolLM2-135M-Instruct.Q4_1.gguf -p Hi\n",
     .least = 1,
     .most = 1,
     .run = cli_train},
    {.name = "plan",
     .arguments = "RECIPE.dip [--weights FILE]",
     .flags = MODEL_FLAGS " --device --adapter --tokenizer --plan --recipe --data --steps --threads --memory --json",
     .summary = "a recipe's memory and time, before it runs",
     .description =
         "Prints what a training run will take at its peak, by what for, whether that fits into the memory there is (the\n"
         "machine's, a control group's, --memory's), and about how long a step will last. The code is compiled and kept for the\n"
         "run; no weights are read and no data. Without --weights: for f32 of the text's shapes. When it does not fit: which\n"
         "statements would make it fit, and exit status 1. --device cuda: of the GPU's memory and of the host's.",
     .examples = "  dipper plan tune.dip --weights SmolLM2-135M-Instruct.Q4_1.gguf\n"
                 "  dipper plan tune.dip --memory 2G --json\n",
     .least = 1,
     .most = 1,
     .run = cli_plan},
    {.name = "tokenize",
     .arguments = "--weights FILE [TEXT]",
     .flags = "--weights --decode --json",
     .required = "--weights",
     .summary = "text to token ids, or back",
     .description = "Reads TEXT, or standard input, and prints the ids that the weights' tokenizer makes of it.\n"
                    "With --decode: ids separated by spaces or commas to text.",
     .examples = "  dipper tokenize --weights model.gguf 'Hello, world'\n"
                 "  echo 19556 28 905 | dipper tokenize --weights model.gguf --decode\n",
     .most = 1,
     .run = cli_tokenize},
    {.name = "check",
     .arguments = "MODEL.dip",
     .flags = MODEL_FLAGS,
     .summary = "check a model's text",
     .description =
         "Compiles the text down to a tile program, checks every stage, and prints every mistake it finds. With\n"
         "--weights the file's dimensions are taken and its tensors compared.",
     .examples = "  dipper check models/llama.dip\n",
     .least = 1,
     .most = 1,
     .run = cli_check},
    {.name = "ir",
     .arguments = "MODEL.dip [--dump-after PASS | --tile | --llvm | --asm | --emit FORM]",
     .flags = MODEL_FLAGS " --dump-after --tile --llvm --asm --emit --target-triple --target-cpu --target-features -o",
     .summary = "look at a model's stages",
     .description =
         "Prints the graph IR after all passes; or after one; or the tile program, LLVM IR or assembly made from it;\n"
         "or what is made of it for a GPU, as CUDA C, PTX or a cubin (the last two by NVRTC; no GPU is needed).\n"
         "With --weights for the dimensions and storage types of that file.",
     .examples = "  dipper ir models/llama.dip --dump-after parse\n"
                 "  dipper ir models/llama.dip --weights model.gguf --asm --target-cpu x86-64-v3 -o model.s\n"
                 "  dipper ir models/llama.dip --emit cubin --target-cpu sm_90a -o llama.cubin\n",
     .least = 1,
     .most = 1,
     .run = cli_ir},
    {.name = "devices",
     .arguments = "",
     .flags = "",
     .summary = "what code can be run on",
     .description = "A line for the CPU, and one for each GPU that --device cuda can use, or the reason why there is none.",
     .examples = "  dipper devices\n",
     .run = cli_devices},
    {.name = "graph",
     .arguments = "MODEL.dip -o FILE.svg",
     .flags = MODEL_FLAGS " -o",
     .required = "-o",
     .summary = "draw a model",
     .description = "Draws the fused graph with Graphviz's dot: a box a task kind, a frame around the layers. The "
                    "name's end says\n"
                    "how: .svg, .png, .pdf, or .dot for the text alone.",
     .examples = "  dipper graph models/llama.dip -o llama.svg\n",
     .least = 1,
     .most = 1,
     .run = cli_graph},
    {.name = "weights",
     .arguments = "ls FILE | save MODEL.dip --weights FILE --out FILE.safetensors",
     .flags = MODEL_FLAGS " --adapter --out --dtype --json",
     .summary = "list or save weights",
     .description =
         "ls: the tensors of a GGUF or safetensors file.\n"
         "save: all weights of the model as safetensors with Hugging Face's names, dequantized; --weights random:SEED\n"
         "makes them; with --adapter DIR they are those of the model with the adapter in them.",
     .examples = "  dipper weights ls model.gguf --json\n"
                 "  dipper weights save models/llama.dip --weights model.gguf --out model.safetensors --dtype f16\n",
     .least = 2,
     .most = 2,
     .run = cli_weights},
    {.name = "bench",
     .arguments = "MODEL.dip --weights FILE",
     .flags = RUN_FLAGS " --device --prefill --decode --repeat --batch --json",
     .required = "--weights",
     .summary = "measure speed",
     .description =
         "Prefill of a prompt in steps of at most 512 tokens, then single-token steps after it, some times over. One\n"
         "more pass goes before and is not counted. Figures are tokens a second; with --batch the sequences decode\n"
         "together, and the figure is of all of them.",
     .examples = "  dipper bench models/llama.dip --weights model.gguf --threads 2 --prefill 512 --decode 64 --repeat "
                 "5 --json\n",
     .least = 1,
     .most = 1,
     .run = cli_bench},
    {.name = "trace",
     .arguments = "MODEL.dip --weights FILE [-p PROMPT | --tokens LIST] -o FILE.json",
     .flags = RUN_FLAGS " -p --raw --tokens -n -o",
     .required = "--weights -o",
     .summary = "a timeline of what the threads did",
     .description =
         "Feeds a prompt, then takes the likeliest token some times over (-n, default 16), and writes a timeline that\n"
         "ui.perfetto.dev opens: each thread's tasks, what it waited for, the steps, how many threads were idle. Then\n"
         "prints where the threads' time went, and the critical path: from the last task of each step back through the\n"
         "latest of those that it had to wait for.",
     .examples = "  dipper trace models/llama.dip --weights model.gguf -p 'Why is the sky blue?' -n 8 -o trace.json\n",
     .least = 1,
     .most = 1,
     .run = cli_trace},
    {.name = "profile",
     .arguments = "MODEL.dip --weights FILE",
     .flags = RUN_FLAGS " --prefill --decode --repeat --json",
     .required = "--weights",
     .summary = "time and work of each op",
     .description =
         "Traces the prefill of a prompt, then single-token steps after it, and prints for each op its tasks, its time on\n"
         "the clock (shared evenly by ops that run at once), the bytes of weights and KV cache it reads (each once a\n"
         "step), its floating-point operations, and what share of the machine's limits that is. The limits are measured\n"
         "first, with as many threads. An op below half of both is said to be limited by latency.",
     .examples = "  dipper profile models/llama.dip --weights model.gguf --threads 2\n"
                 "  dipper profile models/llama.dip --weights model.gguf --prefill 128 --decode 16 --json\n",
     .least = 1,
     .most = 1,
     .run = cli_profile},
    {.name = "plot",
     .arguments = "BENCH.json | DIR [-o FILE.svg]",
     .flags = "-o",
     .summary = "draw a bench's figures, or a training run",
     .description = "Of a directory that `dipper train --out` wrote to (or of its log.jsonl): loss over steps with a smoothed line,\n"
                    "the gradient's norm and the learning rate. Steps that a resumed run made again count as it made them.\n"
                    "Of what `make bench` wrote: a panel for each group of figures, a bar for each program, whiskers from the\n"
                    "smallest to the largest sample. Without -o to stdout.",
     .examples = "  dipper plot run -o loss.svg\n"
                 "  dipper plot bench/results/2026-11-24.json -o bench.svg\n",
     .least = 1,
     .most = 1,
     .run = cli_plot},
};

static void program_help(FILE *out) {
  fprintf(out, "dipper: a compiler for transformer training and inference\n\nUsage: dipper COMMAND [ARGUMENTS] "
               "[FLAGS]\n\nCommands:\n");
  for (size_t i = 0; i < DP_COUNT(commands); i++) fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
  fprintf(out, "  %-10s %s\n  %-10s %s\n", "help", "this text; help COMMAND: a command's", "version", "the version");
  fprintf(out,
          "\nExit status: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.\n"
          "Environment: DIPPER_CACHE (directory of compiled code), NO_COLOR (no colors on a terminal).\n"
          "\nExample:\n%.*s",
          (int)strcspn(commands[0].examples, "\n") + 1, commands[0].examples);
}

static void command_help(const cli_command *command) {
  printf("dipper %s: %s\n\nUsage: dipper %s %s\n\n%s\n\nFlags:\n", command->name, command->summary, command->name,
         command->arguments, command->description);
  cli_print_flags(command);
  printf("  %-24s %s\n\nExamples:\n%s", "--help", "this text", command->examples);
}

static const cli_command *find_command(const char *name) {
  for (size_t i = 0; i < DP_COUNT(commands); i++)
    if (strcmp(commands[i].name, name) == 0) return &commands[i];
  return NULL;
}

static int unknown_command(const char *name) {
  const char *names[DP_COUNT(commands) + 2] = {"help", "version"};
  for (size_t i = 0; i < DP_COUNT(commands); i++) names[i + 2] = commands[i].name;
  const char *near = dp_nearest_name(name, names, (int)DP_COUNT(names));
  if (near) return cli_usage(NULL, "no command '%s'; did you mean '%s'?", name, near);
  return cli_usage(NULL, "no command '%s'", name);
}

static int help(const char *name) {
  const cli_command *command = name ? find_command(name) : NULL;
  if (name && !command) return unknown_command(name);
  if (command)
    command_help(command);
  else
    program_help(stdout);
  return cli_flush();
}

static bool asks_for_help(int argc, char **argv) {
  for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
  return false;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN); /* a closed stdout is a failed write, told apart by errno */
  if (argc < 2) {
    program_help(stderr);
    return CLI_USAGE;
  }
  const char *name = argv[1];
  if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0) {
    printf("dipper " DIPPER_VERSION "\n");
    return cli_flush();
  }
  if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
    return help(argc > 2 ? argv[2] : NULL);
  const cli_command *command = find_command(name);
  if (!command) return unknown_command(name);
  if (asks_for_help(argc, argv)) return help(name);
  cli_args args;
  int code = cli_parse(command, argc, argv, &args);
  if (code != CLI_OK) return code;
  code = command->run(&args);
  int flushed = cli_flush();
  return code != CLI_OK ? code : flushed;
}
