/* api/graph.c: a text in memory to a function over tensors: the model's own way through frontend, passes and code, with
 * the host's memory for weights, and an engine of one sequence that forgets it after each call. */
#include "api/context.h"
#include "api/life.h"
#include "api/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x64704772, MOST_VALUES = 64 };

struct dp_graph {
  uint32_t magic;
  api_life *life;
  dp_model model; /* of which the text's names for graphs are kept in `names` */
  dp_arena *names;
  dp_graph_value inputs[MOST_VALUES], output;
  dp_graph_info info;
};

static const char compile_call[] = "dp_graph_compile", run_call[] = "dp_graph_call";

/* ---- the text */

/* What a graph's value is to a host: T is -1. */
static dp_status describe(dp_graph *g, const ir_value *value, const char *name, dp_graph_value *out) {
  const ir_type *type = &value->type;
  bool rows = type->rank > 0 && type->dims[0].symbol && strcmp(type->dims[0].symbol, "T") == 0 &&
              type->dims[0].coef == 1 && type->dims[0].add == 0;
  *out = (dp_graph_value){.name = dp_arena_strdup(g->names, name ? name : ""),
                          .rank = type->rank,
                          .dtype = type->dtype == IR_i32 ? DP_I32 : DP_F32};
  for (int i = 0; i < type->rank; i++) {
    if (i ? type->dims[i].symbol != NULL : !rows)
      return dp_fail(DP_UNSUPPORTED, "%s: '%s' must have rows T and dimensions that are known", compile_call,
                     out->name);
    out->shape[i] = i ? type->dims[i].add : -1;
  }
  return rows ? DP_SUCCESS : dp_fail(DP_UNSUPPORTED, "%s: '%s' has no rows T", compile_call, out->name);
}

/* `pos` is ours, and no parameter of the text. */
static dp_status describe_all(dp_graph *g, const ir_graph *graph) {
  const ir_block *block = graph->block;
  for (int i = 0; i < block->arg_count; i++) {
    const ir_value *arg = block->args[i];
    if (strcmp(arg->name ? arg->name : "", "pos") == 0) continue;
    if (g->info.input_count == MOST_VALUES)
      return dp_fail(DP_UNSUPPORTED, "%s: '%s' has more than %d parameters", compile_call, graph->name, MOST_VALUES);
    DP_TRY(describe(g, arg, arg->name, &g->inputs[g->info.input_count++]));
  }
  if (!g->info.input_count)
    return dp_fail(DP_UNSUPPORTED, "%s: '%s' has no parameter, so no rows", compile_call, graph->name);
  g->info.output_count = 1;
  return describe(g, block->last->operands[0], block->last->operands[0]->name, &g->output);
}

static dp_status choose_graph(ir_module *module, const char *name) {
  ir_graph *graph = name ? ir_find_graph(module, name) : module->graphs;
  if (!graph)
    return dp_fail(DP_NOT_FOUND, "%s: the model '%s' has no graph '%s'", compile_call, module->name, name ? name : "");
  graph->next = NULL;
  module->graphs = graph;
  return DP_SUCCESS;
}

/* ---- the host's weights */

static dp_status check_weight(const dp_weight_view *w, int index, rt_tensor *tensor) {
  static const ir_dtype types[] = {[DP_F32] = IR_f32, [DP_F16] = IR_f16, [DP_BF16] = IR_bf16};
  if (!w->name) return dp_fail(DP_INVALID, "%s: weight %d has no name", compile_call, index);
  if ((size_t)w->dtype >= DP_COUNT(types))
    return dp_fail(DP_INVALID, "%s: weight '%s' is %s: f32, f16 and bf16 go", compile_call, w->name,
                   api_dtype_name(w->dtype));
  if (w->rank < 1 || w->rank > DP_MAX_RANK || !w->shape || !w->data)
    return dp_fail(DP_INVALID, "%s: weight '%s' has %s", compile_call, w->name,
                   w->rank < 1 || w->rank > DP_MAX_RANK ? "a rank that does not go"
                   : w->shape                           ? "no data"
                                                        : "no shape");
  *tensor = (rt_tensor){.name = w->name, .dtype = types[w->dtype], .rank = w->rank, .data = w->data};
  for (int i = 0; i < w->rank; i++) {
    tensor->dims[i] = w->shape[i];
    if (w->shape[i] < 1)
      return dp_fail(DP_INVALID, "%s: weight '%s': dimension %d is %lld", compile_call, w->name, i,
                     (long long)w->shape[i]);
  }
  return DP_SUCCESS;
}

/* The text's own name is looked for first: all layers in one tensor, in the model's own order. */
static void put_name_first(ir_module *module, ir_weight *weight) {
  ir_source *sources = DP_NEW_ARRAY(module->arena, ir_source, weight->source_count + 1);
  sources[0] = (ir_source){.pattern = weight->name};
  for (int i = 0; i < weight->source_count; i++) sources[i + 1] = weight->sources[i];
  weight->sources = sources;
  weight->source_count++;
}

static dp_status bind_weights(const dp_graph_options *o, api_source *source) {
  rt_tensor *tensors = calloc((size_t)o->weight_count + 1, sizeof *tensors);
  if (!tensors) return dp_fail(DP_NO_MEMORY, "no memory for %d weights", o->weight_count);
  dp_status status = DP_SUCCESS;
  for (int i = 0; i < o->weight_count && status.code == DP_OK; i++)
    status = check_weight(&o->weights[i], i, &tensors[i]);
  if (status.code == DP_OK) status = rt_weights_lend("the host's weights", tensors, o->weight_count, &source->file);
  free(tensors);
  DP_TRY(status);
  for (int i = 0; i < source->module->weight_count; i++) put_name_first(source->module, &source->module->weights[i]);
  return rt_bind_weights(source->module, source->file, 0, &source->binding);
}

/* ---- compiling */

static dp_status start_engine(const dp_graph_options *o, const dp_options *options, dp_graph *g) {
  int64_t rows = o->rows > 0 ? o->rows : 512;
  rt_engine_options engine = {.workers = api_threads(options),
                              .context = rows,
                              .max_tokens = rows,
                              .host = api_host(options->host),
                              .borrow = !o->weights_file,
                              .own_inputs = true};
  DP_TRY(rt_engine_new(g->model.program, g->model.code, g->model.source.binding, &engine, &g->model.engine));
  rt_engine_sizes sizes = rt_engine_get_sizes(g->model.engine);
  g->info.rows = rows;
  g->info.borrowed_bytes = rt_engine_borrowed(g->model.engine);
  g->info.packed_bytes = sizes.weights;
  if (g->model.note.text) api_log(options->host, DP_LOG_NOTE, g->model.note.text);
  return api_go_on(options->host, "pack", 1);
}

static dp_status compile(const char *text, size_t length, const char *name, const dp_graph_options *o,
                         const dp_options *options, dp_graph *g) {
  api_source *source = &g->model.source;
  double begin = api_seconds();
  DP_TRY(api_open_text_source(options, o->weights_file ? API_WEIGHTS : API_TEXT, text, length, source));
  source->all_rows = true;
  DP_TRY(choose_graph(source->module, name));
  DP_TRY(describe_all(g, source->module->graphs));
  if (!o->weights_file) DP_TRY(bind_weights(o, source));
  DP_TRY(api_schedule(options, source, &g->model.program));
  DP_TRY(api_compile(options, &g->model.program, &g->model.code, &g->info.compiled, &g->model.note));
  g->info.compile_s = api_seconds() - begin;
  return start_engine(o, options, g);
}

static void close_graph(void *object) {
  dp_graph *g = object;
  dp_context *host = g->model.host;
  api_life *life = g->life;
  api_keep_context(host);
  api_close_model(&g->model);
  dp_arena_free(g->names);
  *g = (dp_graph){0};
  if (host)
    api_retire(host, g);
  else
    free(g);
  api_life_drop(life);
  api_drop_context(host);
}

static dp_status check_options(const dp_graph_options *o) {
  if (o->size < sizeof *o)
    return dp_fail(DP_INVALID, "%s: options->size is %zu: set it to sizeof(dp_graph_options)", compile_call, o->size);
  if (o->weight_count < 0) return dp_fail(DP_INVALID, "%s: %d weights", compile_call, o->weight_count);
  if (o->weight_count) DP_TRY(api_need(o->weights, compile_call, "list of weights"));
  if (o->weight_count && o->weights_file)
    return dp_fail(DP_INVALID, "%s: weights come from memory or from a file, not from both", compile_call);
  bool cpu = !o->backend || strcmp(o->backend, "llvm") == 0 || strcmp(o->backend, "interp") == 0;
  return cpu ? DP_SUCCESS
             : dp_fail(DP_UNSUPPORTED, "%s: graphs run on the CPU, by llvm or interp, not '%s'", compile_call,
                       o->backend);
}

static dp_status new_graph(dp_context *context, dp_graph **graph) {
  dp_graph *g = *graph = calloc(1, sizeof *g);
  if (g) g->names = dp_arena_new();
  if (g) g->life = api_life_new("graph", close_graph, g);
  if (!g || !g->names || !g->life) {
    if (g) dp_arena_free(g->names);
    free(g);
    return dp_fail(DP_NO_MEMORY, "no memory for a graph");
  }
  g->magic = MAGIC;
  api_adopt_model(context, &g->model);
  return DP_SUCCESS;
}

dp_status dp_graph_compile(dp_context *context, const char *text, size_t length, const char *name,
                           const dp_graph_options *options, dp_graph **graph) {
  const dp_graph_options none = {.size = sizeof none}, *o = options ? options : &none;
  DP_TRY(api_need(text, compile_call, "text"));
  DP_TRY(api_need(graph, compile_call, "place for the graph"));
  DP_TRY(api_check_context(context, compile_call));
  DP_TRY(check_options(o));
  dp_options whole = {.path = "text",
                      .weights = o->weights_file,
                      .sets = o->sets,
                      .set_count = o->set_count,
                      .plan = o->plan,
                      .threads = o->threads,
                      .cache_dir = o->cache_dir,
                      .backend = o->backend,
                      .verify_each = o->verify_each,
                      .host = context};
  dp_graph *fresh;
  DP_TRY(new_graph(context, &fresh));
  dp_status status = compile(text, length, name, o, &whole, fresh);
  if (status.code == DP_OK)
    *graph = fresh;
  else
    dp_graph_free(fresh);
  return status;
}

void dp_graph_free(dp_graph *graph) {
  if (graph && graph->magic == MAGIC) api_close(graph->life);
}

/* ---- questions */

static dp_status check_graph(const dp_graph *graph, const char *call) {
  DP_TRY(api_need(graph, call, "graph"));
  return graph->magic == MAGIC ? DP_SUCCESS : dp_fail(DP_INVALID, "%s: this is no graph, or was freed", call);
}

dp_status dp_graph_get_info(const dp_graph *graph, dp_graph_info *info) {
  DP_TRY(check_graph(graph, "dp_graph_get_info"));
  DP_TRY(api_need(info, "dp_graph_get_info", "place for the info"));
  *info = graph->info;
  return DP_SUCCESS;
}

static dp_status get_value(const dp_graph_value *values, int count, int index, const char *call,
                           dp_graph_value *value) {
  DP_TRY(api_need(value, call, "place for the value"));
  if (index < 0 || index >= count)
    return dp_fail(DP_INVALID, "%s: there is no value %d: the graph has %d", call, index, count);
  *value = values[index];
  return DP_SUCCESS;
}

dp_status dp_graph_get_input(const dp_graph *graph, int index, dp_graph_value *value) {
  DP_TRY(check_graph(graph, "dp_graph_get_input"));
  return get_value(graph->inputs, graph->info.input_count, index, "dp_graph_get_input", value);
}

dp_status dp_graph_get_output(const dp_graph *graph, int index, dp_graph_value *value) {
  DP_TRY(check_graph(graph, "dp_graph_get_output"));
  return get_value(&graph->output, graph->info.output_count, index, "dp_graph_get_output", value);
}

/* ---- a call */

/* Of T == -1 any number of rows; *rows is what it has. */
static dp_status check_shape(const dp_graph_value *wanted, const dp_tensor *tensor, int64_t *rows) {
  char what[96];
  snprintf(what, sizeof what, "tensor '%.60s'", wanted->name);
  DP_TRY(api_check_tensor(tensor, run_call, what));
  const dp_tensor_info *have = api_tensor_info(tensor);
  bool ids = wanted->dtype == DP_I32 && have->dtype == DP_I64; /* converted */
  bool same = have->rank == wanted->rank && (have->dtype == wanted->dtype || ids);
  for (int i = 1; same && i < have->rank; i++) same = have->shape[i] == wanted->shape[i];
  if (same && (*rows < 0 || *rows == have->shape[0])) {
    *rows = have->shape[0];
    return DP_SUCCESS;
  }
  dp_str text = {0};
  dp_str_addf(&text, "%s: '%s' must be ", run_call, wanted->name);
  api_print_shape(&text, wanted->dtype, wanted->rank, wanted->shape);
  dp_str_add(&text, ", but is ");
  api_print_shape(&text, have->dtype, have->rank, have->shape);
  if (same) dp_str_addf(&text, ", and others have %lld rows", (long long)*rows);
  dp_status status = dp_fail(DP_INVALID, "%s", text.text ? text.text : run_call);
  dp_str_free(&text);
  return status;
}

/* Element (row, column) of a view, its dimensions after the first flattened, in elements from its begin. */
static int64_t place_of(const dp_tensor_info *t, int64_t row, int64_t column) {
  int64_t at = row * t->strides[0];
  for (int i = t->rank - 1; i > 0; i--) {
    at += column % t->shape[i] * t->strides[i];
    column /= t->shape[i];
  }
  return at;
}

static int64_t columns_of(const dp_tensor_info *t) {
  int64_t columns = 1;
  for (int i = 1; i < t->rank; i++) columns *= t->shape[i];
  return columns;
}

static bool rows_are_dense(const dp_tensor_info *t) {
  int64_t stride = 1;
  for (int i = t->rank - 1; i > 0; stride *= t->shape[i], i--)
    if (t->shape[i] > 1 && t->strides[i] != stride) return false;
  return true;
}

static dp_status copy_ids(dp_graph *g, const dp_graph_value *value, const dp_tensor_info *from) {
  int32_t *to = rt_engine_ids(g->model.engine, value->name);
  if (!to) return DP_SUCCESS;
  int64_t limit = rt_engine_ids_limit(g->model.engine, value->name, from->shape[0]);
  for (int64_t r = 0; r < from->shape[0]; r++) {
    int64_t at = r * from->strides[0];
    int64_t id = from->dtype == DP_I64 ? ((const int64_t *)from->data)[at] : ((const int32_t *)from->data)[at];
    bool fits = id >= INT32_MIN && id <= INT32_MAX && (limit == INT32_MAX || (id >= 0 && id < limit));
    if (!fits)
      return dp_fail(DP_INVALID, "%s: '%s' [%lld] is %lld: the numbers are below %lld, and not negative", run_call,
                     value->name, (long long)r, (long long)id, (long long)limit);
    to[r] = (int32_t)id;
  }
  return DP_SUCCESS;
}

static void copy_rows(dp_graph *g, const dp_graph_value *value, const dp_tensor_info *from) {
  int64_t stride, columns = columns_of(from);
  float *to = rt_engine_rows(g->model.engine, value->name, &stride);
  const float *data = from->data;
  bool dense = rows_are_dense(from);
  for (int64_t r = 0; to && r < from->shape[0]; r++) {
    if (dense) memcpy(to + r * stride, data + r * from->strides[0], sizeof *to * (size_t)columns);
    for (int64_t c = 0; !dense && c < columns; c++) to[r * stride + c] = data[place_of(from, r, c)];
  }
}

/* Everything is looked at before anything is copied. */
static dp_status take_inputs(dp_graph *g, dp_tensor *const *inputs, int64_t *rows) {
  for (int i = 0; i < g->info.input_count; i++) DP_TRY(check_shape(&g->inputs[i], inputs[i], rows));
  if (*rows > g->info.rows)
    return dp_fail(DP_INVALID, "%s: %lld rows: the graph was compiled for %lld at most (dp_graph_options.rows)",
                   run_call, (long long)*rows, (long long)g->info.rows);
  for (int i = 0; i < g->info.input_count; i++) {
    const dp_tensor_info *from = api_tensor_info(inputs[i]);
    if (g->inputs[i].dtype == DP_I32)
      DP_TRY(copy_ids(g, &g->inputs[i], from));
    else
      copy_rows(g, &g->inputs[i], from);
  }
  return DP_SUCCESS;
}

/* One step of a sequence that is gone afterwards, into `rows`. */
static dp_status run(dp_graph *g, int64_t count, float *rows) {
  rt_engine *engine = g->model.engine;
  rt_request request = {.count = count, .want = RT_WANT_ALL, .tokens = rt_engine_ids(engine, "tokens")};
  int32_t *none = NULL;
  if (!request.tokens) request.tokens = none = calloc((size_t)count, sizeof *none);
  if (!request.tokens) return dp_fail(DP_NO_MEMORY, "no memory for a step");
  dp_status status = rt_sequence_new(engine, &request.sequence);
  if (status.code == DP_OK) {
    rt_engine_lend_result(engine, rows);
    status = rt_engine_step(engine, &request, 1, NULL);
    rt_engine_lend_result(engine, NULL);
    rt_sequence_free(engine, request.sequence);
  }
  free(none);
  return status;
}

static void hand_over(const dp_tensor_info *from, const dp_tensor_info *to) {
  int64_t columns = columns_of(from);
  bool dense = rows_are_dense(to);
  const float *data = from->data;
  float *out = to->data;
  for (int64_t r = 0; r < from->shape[0]; r++) {
    if (dense) memcpy(out + r * to->strides[0], data + r * from->strides[0], sizeof *out * (size_t)columns);
    for (int64_t c = 0; !dense && c < columns; c++) out[place_of(to, r, c)] = data[r * from->strides[0] + c];
  }
}

static dp_status call(dp_graph *g, dp_tensor *const *inputs, dp_tensor **outputs) {
  int64_t rows = -1, shape[DP_MAX_RANK];
  DP_TRY(take_inputs(g, inputs, &rows));
  if (outputs[0]) DP_TRY(check_shape(&g->output, outputs[0], &rows));
  if (outputs[0] && api_tensor_info(outputs[0])->read_only)
    return dp_fail(DP_INVALID, "%s: '%s' may only be read", run_call, g->output.name);
  memcpy(shape, g->output.shape, sizeof shape);
  shape[0] = rows;
  dp_tensor *result;
  DP_TRY(api_new_rows(g->model.host, g->output.rank, shape, rt_engine_result_stride(g->model.engine), &result));
  dp_status status = rows ? run(g, rows, api_tensor_info(result)->data) : DP_SUCCESS;
  if (status.code == DP_OK && !outputs[0]) {
    outputs[0] = result;
    return status;
  }
  if (status.code == DP_OK) hand_over(api_tensor_info(result), api_tensor_info(outputs[0]));
  dp_tensor_free(result);
  return status;
}

dp_status dp_graph_call(dp_graph *graph, dp_tensor *const *inputs, int input_count, dp_tensor **outputs,
                        int output_count) {
  DP_TRY(check_graph(graph, run_call));
  if (input_count != graph->info.input_count || output_count != graph->info.output_count)
    return dp_fail(DP_INVALID, "%s: the graph takes %d inputs and gives %d, not %d and %d", run_call,
                   graph->info.input_count, graph->info.output_count, input_count, output_count);
  DP_TRY(api_need(inputs, run_call, "list of inputs"));
  DP_TRY(api_need(outputs, run_call, "list of outputs"));
  api_life *life = graph->life;
  DP_TRY(api_enter(life, run_call));
  dp_status status = call(graph, inputs, outputs);
  api_leave(life);
  return status;
}
