/* api/context.c: the host's callbacks, counted by whoever needs them, and the ops it has given the language. */
#include "api/context.h"
#include "api/life.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct added_op {
  dp_op op; /* its strings are this struct's */
  char *strings;
  const char *gradients[DP_MOST_OPERANDS];
  struct added_op *next;
} added_op;

typedef struct left_thread {
  pthread_t thread;
  struct left_thread *next;
} left_thread;

typedef struct shell {
  void *memory;
  struct shell *next;
} shell;

struct dp_context {
  uint32_t magic;
  _Atomic int references;
  _Atomic bool closed;
  dp_callbacks callbacks;
  rt_host host;
  pthread_mutex_t lock; /* of what follows */
  added_op *ops;
  left_thread *threads;
  shell *shells;
};

enum { MAGIC = 0x64704378 };

/* ---- what the runtime asks */

static void *allocate(void *user, size_t size, size_t alignment) {
  const dp_callbacks *c = user;
  return c->allocate(c->user, size, alignment);
}

static void release(void *user, void *memory, size_t size, size_t alignment) {
  const dp_callbacks *c = user;
  c->release(c->user, memory, size, alignment);
}

static bool go_on(void *user) {
  const dp_callbacks *c = user;
  return !c->cancel(c->user);
}

static void progress(void *user, const char *stage, double fraction) {
  const dp_callbacks *c = user;
  c->progress(c->user, stage, fraction);
}

const rt_host *api_host(dp_context *context) { return context ? &context->host : NULL; }

void api_log(dp_context *context, dp_log_level level, const char *text) {
  if (context && context->callbacks.log) context->callbacks.log(context->callbacks.user, level, text);
}

dp_status api_go_on(dp_context *context, const char *stage, double fraction) {
  if (!context) return DP_SUCCESS;
  const dp_callbacks *c = &context->callbacks;
  if (c->progress) c->progress(c->user, stage, fraction);
  if (c->cancel && c->cancel(c->user)) return dp_fail(DP_CANCELLED, "stopped by the host (%s)", stage);
  return DP_SUCCESS;
}

/* ---- life */

dp_status dp_context_new(const dp_callbacks *callbacks, dp_context **context) {
  DP_TRY(api_need(context, "dp_context_new", "place for the context"));
  size_t size = callbacks ? callbacks->size : 0;
  if (callbacks && size < offsetof(dp_callbacks, log))
    return dp_fail(DP_INVALID, "dp_context_new: callbacks->size is %zu: set it to sizeof(dp_callbacks)", size);
  dp_context *c = calloc(1, sizeof *c);
  if (!c) return dp_fail(DP_NO_MEMORY, "no memory for a context");
  if (callbacks) memcpy(&c->callbacks, callbacks, size < sizeof *callbacks ? size : sizeof *callbacks);
  if (!c->callbacks.allocate != !c->callbacks.release) {
    free(c);
    return dp_fail(DP_INVALID, "dp_context_new: allocate and release go together: one is NULL");
  }
  c->host = (rt_host){c->callbacks.allocate ? allocate : NULL, c->callbacks.release ? release : NULL,
                      c->callbacks.cancel ? go_on : NULL, c->callbacks.progress ? progress : NULL, &c->callbacks};
  c->magic = MAGIC;
  atomic_store(&c->references, 1);
  pthread_mutex_init(&c->lock, NULL);
  *context = c;
  return DP_SUCCESS;
}

static void free_context(dp_context *c) {
  for (left_thread *at = c->threads, *next; at; at = next) {
    next = at->next;
    pthread_join(at->thread, NULL);
    free(at);
  }
  for (added_op *at = c->ops, *next; at; at = next) {
    next = at->next;
    free(at->strings);
    free(at);
  }
  for (shell *at = c->shells, *next; at; at = next) {
    next = at->next;
    free(at->memory);
    free(at);
  }
  pthread_mutex_destroy(&c->lock);
  c->magic = 0;
  free(c);
}

void api_keep_context(dp_context *context) {
  if (context) atomic_fetch_add(&context->references, 1);
}

void api_drop_context(dp_context *context) {
  if (context && atomic_fetch_sub(&context->references, 1) == 1) free_context(context);
}

void dp_context_free(dp_context *context) {
  if (!context || atomic_exchange(&context->closed, true)) return;
  api_drop_context(context);
}

dp_status api_check_context(const dp_context *context, const char *call) {
  if (!context) return DP_SUCCESS;
  if (context->magic != MAGIC) return dp_fail(DP_INVALID, "%s: this is no context", call);
  return context->closed ? dp_fail(DP_INVALID, "%s: the context was freed", call) : DP_SUCCESS;
}

void api_leave_behind(dp_context *context, pthread_t thread) {
  left_thread *left = malloc(sizeof *left);
  if (!left) {
    pthread_join(thread, NULL);
    return;
  }
  pthread_mutex_lock(&context->lock);
  *left = (left_thread){thread, context->threads};
  context->threads = left;
  pthread_mutex_unlock(&context->lock);
}

void api_retire(dp_context *context, void *memory) {
  shell *kept = context ? malloc(sizeof *kept) : NULL;
  if (!kept) {
    free(memory);
    return;
  }
  pthread_mutex_lock(&context->lock);
  *kept = (shell){memory, context->shells};
  context->shells = kept;
  pthread_mutex_unlock(&context->lock);
}

/* ---- ops */

const dp_op *api_op_at(const dp_context *context, int index) {
  if (!context) return NULL;
  dp_context *c = (dp_context *)(uintptr_t)context;
  pthread_mutex_lock(&c->lock);
  const added_op *at = c->ops;
  for (; at && index > 0; index--) at = at->next;
  pthread_mutex_unlock(&c->lock);
  return at ? &at->op : NULL;
}

static bool is_name(const char *name) {
  size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
  return length > 0 && name[length] == '\0' && !(name[0] >= '0' && name[0] <= '9');
}

static dp_status check_op(const dp_op *op) {
  if (op->size < sizeof *op)
    return dp_fail(DP_INVALID, "dp_context_add_op: op->size is %zu: set it to sizeof(dp_op)", op->size);
  DP_TRY(api_need(op->name, "dp_context_add_op", "name"));
  DP_TRY(api_need((const void *)(uintptr_t)op->forward, "dp_context_add_op", "forward callback"));
  if (!is_name(op->name))
    return dp_fail(DP_INVALID, "dp_context_add_op: '%s' is no name: letters, digits and _", op->name);
  if (op->operands < 1 || op->operands > DP_MOST_OPERANDS)
    return dp_fail(DP_INVALID, "dp_context_add_op: '%s' has %d operands: 1 to %d go", op->name, op->operands,
                   DP_MOST_OPERANDS);
  return fe_is_taken(op->name) ? dp_fail(DP_INVALID, "dp_context_add_op: '%s' is the language's own name", op->name)
                               : DP_SUCCESS;
}

/* The op with copies of its strings. */
static added_op *copy_op(const dp_op *op) {
  size_t length = strlen(op->name) + 1;
  for (int i = 0; op->gradients && i < op->operands; i++) length += op->gradients[i] ? strlen(op->gradients[i]) + 1 : 0;
  added_op *made = calloc(1, sizeof *made);
  char *at = made ? malloc(length) : NULL;
  if (!at) {
    free(made);
    return NULL;
  }
  made->strings = at;
  made->op = *op;
  made->op.name = strcpy(at, op->name);
  at += strlen(at) + 1;
  for (int i = 0; op->gradients && i < op->operands; i++) {
    if (!op->gradients[i]) continue;
    made->gradients[i] = strcpy(at, op->gradients[i]);
    at += strlen(at) + 1;
  }
  if (op->gradients) made->op.gradients = made->gradients;
  return made;
}

dp_status dp_context_add_op(dp_context *context, const dp_op *op) {
  DP_TRY(api_need(context, "dp_context_add_op", "context"));
  DP_TRY(api_check_context(context, "dp_context_add_op"));
  DP_TRY(api_need(op, "dp_context_add_op", "op"));
  DP_TRY(check_op(op));
  added_op *made = copy_op(op);
  if (!made) return dp_fail(DP_NO_MEMORY, "no memory for an op");
  pthread_mutex_lock(&context->lock);
  added_op **end = &context->ops;
  while (*end && strcmp((*end)->op.name, op->name) != 0) end = &(*end)->next;
  bool taken = *end != NULL;
  if (!taken) *end = made;
  pthread_mutex_unlock(&context->lock);
  if (!taken) return DP_SUCCESS;
  free(made->strings);
  free(made);
  return dp_fail(DP_INVALID, "dp_context_add_op: there is an op '%s' already", op->name);
}

const dp_op *api_host_op(void *context, int index) { return api_op_at(context, index); }

static const dp_op *find_op(const dp_context *context, const char *name) {
  const dp_op *op;
  for (int i = 0; (op = api_op_at(context, i)); i++)
    if (strcmp(op->name, name) == 0) return op;
  return NULL;
}

dp_status api_check_ops(const dp_options *options, const tile_program *p) {
  for (int i = 0; i < p->host_count; i++) {
    if (options->backend && strcmp(options->backend, "cuda") == 0)
      return dp_fail(DP_UNSUPPORTED, "op '%s' is the host's: it does not run on a GPU", p->hosts[i]);
    if (!find_op(options->host, p->hosts[i]))
      return dp_fail(DP_INVALID, "the host has no op '%s': dp_context_add_op", p->hosts[i]);
  }
  for (int k = 0; k < p->kind_count; k++) {
    const tile_op *op = tile_host_op(&p->kinds[k]);
    const dp_op *ours = op ? find_op(options->host, p->hosts[op->ref]) : NULL;
    if (ours && ours->operands != op->list_count)
      return dp_fail(DP_INVALID, "op '%s' of the host takes %d operands, and is used with %d", ours->name,
                     ours->operands, op->list_count);
  }
  return DP_SUCCESS;
}

dp_status api_lend_ops(dp_context *context, const tile_program *p, tile_code **code) {
  if (!p->host_count) return DP_SUCCESS;
  const dp_op **ops = calloc((size_t)p->host_count, sizeof *ops);
  if (!ops) return dp_fail(DP_NO_MEMORY, "no memory for a program's ops");
  for (int i = 0; i < p->host_count; i++) ops[i] = find_op(context, p->hosts[i]);
  dp_status status = cg_lend_ops(p, ops, code);
  free(ops);
  return status;
}
