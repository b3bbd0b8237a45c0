/* api/internal.h: how the parts are wired: model text and weights to a module, a module to code, code to an engine. */
#ifndef DIPPER_API_INTERNAL_H
#define DIPPER_API_INTERNAL_H

#include "codegen/codegen.h"
#include "dipper/dipper.h"
#include "frontend/frontend.h"
#include "ir/ir.h"
#include "passes/passes.h"
#include "runtime/runtime.h"

/* What text and weights make together. */
typedef struct api_source {
  rt_weights_file *file; /* NULL for random weights or none */
  ir_module *module;
  rt_binding *binding; /* NULL without weights */
  ir_plan *plan; /* both in the module's memory; a recipe is NULL when the text has none for the model */
  ir_recipe *recipe;
  ir_adaptation *adaptations; /* malloc'ed, of the weights of the text; NULL: nothing stands beside them */
  int declared;               /* weights of the text; those behind them are an adapter's */
  rt_weights_file *adapter;   /* NULL when it is new, or there is none */
} api_source;

typedef enum api_use {
  API_TEXT,     /* weights may be named, or not */
  API_WEIGHTS,  /* they must be */
  API_SHAPES,   /* weights that are not named, and those at random until api_make_weights, are shapes without elements */
  API_TRAINING, /* shapes too, and named; a recipe for a number a token gives the model such a head */
  API_PLANNING, /* the same, named or not */
} api_use;
dp_status api_open_source(const dp_options *options, api_use use, api_source *source);
dp_status api_make_weights(const dp_options *options, api_source *source);
void api_close_source(api_source *source);
/* Puts the adapter of options->adapter beside the weights, if one is named. Before the passes. */
dp_status api_load_adapter(const dp_options *options, api_source *source);
/* The same of what the plan adapts, to be trained: a new one, or that of options->adapter, which must be as the plan says. */
dp_status api_plan_adapter(const dp_options *options, api_source *source);
/* Writes the adapter's numbers of `binding` into a folder, made when it is not there. */
dp_status api_save_adapter(const char *directory, const api_source *source, const rt_binding *binding);

dp_status api_compile(const dp_options *options, const tile_program *program, tile_code **code, bool *compiled, dp_str *note);
/* The passes, then a schedule. */
dp_status api_schedule(const dp_options *options, api_source *source, tile_program **program);
/* A schedule of a module that the passes have been over, for options->backend; the module stays as it is. */
dp_status api_schedule_again(const dp_options *options, const api_source *source, tile_program **program);
int api_threads(const dp_options *options);
/* Puts the back end of options->device into the options, and adds what that is to `name` (may be NULL); where `auto` finds no
 * GPU, *note says why. */
dp_status api_choose_device(dp_options *options, dp_str *note, dp_str *name);
/* Code as far as rt_engine_measure looks at it, before it is compiled. */
tile_code api_code_to_measure(const dp_options *options);
/* Where compiled code is kept: malloc'ed, NULL when there is no place. */
char *api_cache_dir(const dp_options *options);
double api_seconds(void);

/* From the weights file, or a tokenizer.json beside it. *tokenizer stays NULL when there is none. */
dp_status api_open_tokenizer(const rt_weights_file *file, dp_tokenizer **tokenizer);
/* Both into the model: of options->tokenizer, or of its own weights. */
dp_status api_open_text(const dp_options *options, dp_model *model);
dp_status api_open_chat_template(const rt_weights_file *file, dp_chat_template **chat);

/* Records of the engine's steps, in *records while they are made. */
dp_status api_trace_start(rt_engine *engine, int threads, int64_t max_tasks, rt_trace **records);
dp_status api_trace_stop(rt_engine *engine, int threads, rt_trace **records, dp_trace **trace);

void api_dot(dp_str *out, const ir_module *module);
dp_status api_take_text(dp_str *from, dp_text *text);

/* ---- packages: what ahead-of-time compilation puts behind a launcher, or into a file of weights (api/package.c) */

typedef enum api_part {
  API_PART_MODULE = 1, /* the text of the graph IR, storage types included */
  API_PART_OBJECT,     /* ELF; named by what it requires of a CPU (codegen.h) */
  API_PART_BESIDE,     /* the name of the weights file that it was compiled for */
  API_PART_METADATA,   /* of that file: rt_save_metadata */
  API_PART_TOKENIZER,  /* tokenizer.json */
  API_PART_WEIGHTS,    /* rt_resident_write's */
  API_PART_GPU_OBJECT, /* of the module scheduled for a GPU; named by its chip, or "ptx" */
} api_part;

typedef struct api_package_entry {
  uint64_t part, offset, size, hash; /* offset from the file's begin; hash 0 of weights: they are not read through */
  char name[96];
} api_package_entry;

/* A file with a package at its end, mapped. {0}: none. */
typedef struct api_package {
  dp_mapping file;
  const api_package_entry *entries;
  int count;
} api_package;
/* DP_NOT_FOUND: the file has none. `path` may be /proc/self/exe. */
dp_status api_open_package(const char *path, api_package *package);
void api_close_package(api_package *package);

/* Writes a file atomically, of the mode given: `head` first, parts after it, each at a multiple of 4096. */
typedef struct api_package_writer api_package_writer;
dp_status api_package_begin(const char *path, unsigned mode, const void *head, size_t size, api_package_writer **writer);
dp_status api_package_add(api_package_writer *writer, api_part part, const char *name, const void *data, size_t size);
/* A part that is written piece by piece. */
dp_status api_package_begin_part(api_package_writer *writer, api_part part, const char *name);
dp_status api_package_write(void *writer, const void *data, size_t size);
/* Ends the file, or after a failure removes it; frees the writer. Returns the first failure. */
dp_status api_package_end(api_package_writer *writer, dp_status status);

/* The program of a package's module for options->device (NULL: auto), and its code, into the model. path: the package's, for
 * messages; packed: its weights are; `key`: of the program for CPUs, which they were packed for. */
dp_status api_load_packaged(const char *path, const api_package *package, const dp_options *options, bool packed,
                            dp_model *model, cg_program_key *key);
/* The parts of a kind: their number; `names` (may be NULL) gets so many at most. */
int api_package_names(const api_package *package, api_part part, const char **names, int most);

/* The C header of a compiled model. */
dp_status api_write_header(const ir_module *module, const tile_program *program, const char *path);

/* Packed weights. */
typedef struct api_image {
  const void *bytes;
  size_t size;
  uint64_t key[2];
} api_image;
/* The engine of a model whose program and code are there, and what is told of it. image NULL: the source's weights. */
dp_status api_start_model(const dp_options *options, const api_image *image, dp_model *model);
/* A tokenizer.json's text, with the ends that the metadata name. */
dp_status api_tokenizer_from_text(const rt_weights_file *file, const char *name, const char *text, size_t length,
                                  dp_tokenizer **tokenizer);

struct dp_model {
  api_source source;
  tile_program *program;
  tile_code *code;
  rt_engine *engine;
  dp_tokenizer *tokenizer;
  dp_chat_template *chat;
  dp_model_info info;
  rt_trace *trace; /* while it is being traced */
  dp_str note, device;
  api_package packages[2]; /* of a model compiled ahead of time: itself, and its weights; mapped as long as it lives */
};

void api_close_model(dp_model *model); /* what is in it */

struct dp_session {
  dp_model *model;
  rt_sequence *sequence;
};

#endif
