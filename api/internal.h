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
  API_TRAINING, /* that too; a recipe for a number a token gives the model such a head */
} api_use;
dp_status api_open_source(const dp_options *options, api_use use, api_source *source);
void api_close_source(api_source *source);
/* Puts the adapter of options->adapter beside the weights, if one is named. Before the passes. */
dp_status api_load_adapter(const dp_options *options, api_source *source);
/* The same of what the plan adapts, to be trained: a new one, or that of options->adapter, which must be as the plan says. */
dp_status api_plan_adapter(const dp_options *options, api_source *source);
/* Writes the adapter's numbers of `binding` into a folder, made when it is not there. */
dp_status api_save_adapter(const char *directory, const api_source *source, const rt_binding *binding);

dp_status api_compile(const dp_options *options, const tile_program *program, tile_code **code, bool *compiled, dp_str *note);
dp_status api_schedule(const dp_options *options, api_source *source, tile_program **program);
int api_threads(const dp_options *options);
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

struct dp_model {
  api_source source;
  tile_program *program;
  tile_code *code;
  rt_engine *engine;
  dp_tokenizer *tokenizer;
  dp_chat_template *chat;
  dp_model_info info;
  rt_trace *trace; /* while it is being traced */
  dp_str note;
};

void api_close_model(dp_model *model); /* what is in it */

struct dp_session {
  dp_model *model;
  rt_sequence *sequence;
};

#endif
