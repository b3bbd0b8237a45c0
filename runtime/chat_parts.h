/* runtime/chat_parts.h: what the parts of the chat template's interpreter share: tokens, the tree, values, one run.
 *
 * source -> chat_lex.c -> tokens -> chat_parse.c -> tree -> chat_eval.c (chat_value.c, chat_builtin.c) -> text. The
 * tree lives in the template's arena, values in the run's. */
#ifndef DIPPER_CHAT_PARTS_H
#define DIPPER_CHAT_PARTS_H

#include "base/base.h"
#include "runtime/chat.h"

typedef struct chat_text {
  const char *text;
  size_t length;
} chat_text;

bool chat_is(chat_text text, const char *word);
bool chat_same(chat_text a, chat_text b);

/* ---- values ----------------------------------------------------------------------------------------------------- */

typedef struct chat_run chat_run;
typedef struct chat_node chat_node;
typedef struct chat_scope chat_scope;
typedef struct chat_value chat_value;

typedef enum chat_kind {
  CHAT_ABSENT, /* an argument that was not given; never seen by a template */
  CHAT_UNDEFINED,
  CHAT_NONE,
  CHAT_BOOL,
  CHAT_INT,
  CHAT_FLOAT,
  CHAT_STRING,
  CHAT_LIST,
  CHAT_DICT,
  CHAT_NAMESPACE,
  CHAT_LOOP,
  CHAT_MACRO,
  CHAT_FUNCTION, /* a builtin, or a method with the value it belongs to */
} chat_kind;

typedef struct chat_list {
  chat_value *items;
  int count, capacity;
  bool is_tuple;
} chat_list;

typedef struct chat_dict { /* in order of insertion; namespaces too */
  struct chat_entry *entries;
  int count, capacity;
} chat_dict;

typedef struct chat_loop {
  chat_list *list;
  int index;
} chat_loop;

typedef struct chat_macro {
  const chat_node *node;
  chat_scope *scope; /* where it was defined */
} chat_macro;

typedef struct chat_args {
  chat_value *items; /* [count] by position, then [keyword_count] by keyword */
  const chat_text *keywords;
  int count, keyword_count;
} chat_args;

enum { CHAT_MAX_PARAMS = 6 };

/* A builtin: `params` are names with commas between; bound[i] is CHAT_ABSENT when not given. With params NULL it takes
 * its arguments as they come. */
typedef struct chat_builtin {
  const char *name, *params;
  chat_value (*call)(chat_run *run, const chat_value *self, const chat_value *bound, const chat_args *args);
} chat_builtin;

struct chat_value {
  chat_kind kind;
  bool truth;
  union {
    int64_t integer;
    double number;
    chat_text text; /* of a string; the name of what is undefined */
    chat_list *list;
    chat_dict *dict;
    const chat_loop *loop;
    const chat_macro *macro;
    struct {
      const chat_builtin *builtin;
      const chat_value *self; /* NULL: a function */
    } function;
  };
};

typedef struct chat_entry {
  chat_value key, value;
} chat_entry;

#define CHAT_NO_VALUE ((chat_value){.kind = CHAT_UNDEFINED})
#define CHAT_NOTHING ((chat_value){.kind = CHAT_NONE})
chat_value chat_bool(bool truth);
chat_value chat_int(int64_t integer);
chat_value chat_float(double number);
chat_value chat_string(const char *text, size_t n); /* not copied */
chat_value chat_word(const char *text);
chat_value chat_list_value(chat_list *list);

/* ---- one run ---------------------------------------------------------------------------------------------------- */

enum {
  CHAT_MAX_DEPTH = 300, /* of the tree, and of calls within calls */
  CHAT_MAX_STEPS = 20000000,
  CHAT_MAX_MEMORY = 64 << 20, /* and 16 times what comes in */
};

typedef enum chat_flow { CHAT_GO_ON, CHAT_BREAK, CHAT_CONTINUE } chat_flow;

struct chat_run {
  dp_arena *arena;
  dp_str *out;      /* what is written now: the result, or a block's or a macro's text */
  dp_status status; /* the first failure; everything unwinds once it is set */
  size_t memory, memory_limit;
  uint64_t steps;
  int depth, line;
  chat_flow flow;
  const struct tm *now;
};

bool chat_failed(const chat_run *run);
/* Sets the status, with the line; returns the undefined value, for `return chat_fail(...)`. */
chat_value chat_fail(chat_run *run, dp_code code, const char *fmt, ...) DP_PRINTF(3, 4);
/* Counts work: false, and failed, when it is too much. Things that take long count by their length. */
bool chat_step(chat_run *run, size_t work);
bool chat_enter(chat_run *run); /* deeper; false, and failed, when it is too deep */
void chat_leave(chat_run *run);
void *chat_alloc(chat_run *run, size_t size); /* NULL, and failed, when it is too much */
void chat_write(chat_run *run, const char *text, size_t n);

chat_list *chat_list_new(chat_run *run, int capacity); /* NULL on failure */
void chat_list_add(chat_run *run, chat_list *list, chat_value item);
chat_dict *chat_dict_new(chat_run *run);
void chat_dict_set(chat_run *run, chat_dict *dict, chat_value key, chat_value value);
chat_value *chat_dict_get(chat_run *run, const chat_dict *dict, const chat_value *key); /* NULL: not there */

const char *chat_kind_name(const chat_value *value);
bool chat_truth(const chat_value *value);
bool chat_equal(chat_run *run, const chat_value *a, const chat_value *b);
int chat_compare(chat_run *run, const chat_value *a, const chat_value *b); /* <0, 0, >0; fails for what has no order */
bool chat_contains(chat_run *run, const chat_value *container, const chat_value *item);
chat_list *chat_iterate(chat_run *run, const chat_value *value); /* a list, keys, characters; NULL on failure */
int64_t chat_length(chat_run *run, const chat_value *value);
chat_text chat_to_text(chat_run *run, const chat_value *value); /* Python's str() */
void chat_add_json(chat_run *run, dp_str *out, const chat_value *value, int indent, int level, bool ascii, bool sorted,
                   chat_text comma, chat_text colon);
chat_value chat_copy(chat_run *run, const char *text, size_t n); /* a string of its own */
chat_value chat_take(chat_run *run, dp_str *text);               /* a string of its own; frees text */

chat_value chat_attribute(chat_run *run, const chat_value *object, chat_text name);
chat_value chat_item(chat_run *run, const chat_value *object, const chat_value *key);
chat_value chat_call(chat_run *run, const chat_value *callee, const chat_args *args);

/* ---- builtins --------------------------------------------------------------------------------------------------- */

const chat_builtin *chat_find_filter(chat_text name); /* NULL: not handled */
const chat_builtin *chat_find_test(chat_text name);
const chat_builtin *chat_find_function(chat_text name);
const chat_builtin *chat_find_method(const chat_value *self, chat_text name);
chat_value chat_call_builtin(chat_run *run, const chat_builtin *builtin, const chat_value *self, const chat_args *args);
chat_value chat_call_macro(chat_run *run, const chat_macro *macro, const chat_args *args);

/* ---- tokens and the tree ---------------------------------------------------------------------------------------- */

typedef enum chat_token_kind {
  CHAT_T_END,
  CHAT_T_DATA,
  CHAT_T_BLOCK_BEGIN,
  CHAT_T_BLOCK_END,
  CHAT_T_PRINT_BEGIN,
  CHAT_T_PRINT_END,
  CHAT_T_NAME,
  CHAT_T_STRING,
  CHAT_T_INT,
  CHAT_T_FLOAT,
  CHAT_T_OPERATOR,
} chat_token_kind;

typedef struct chat_token {
  chat_token_kind kind;
  int line;
  chat_text text; /* of data, a name, a string (unescaped), an operator */
  int64_t integer;
  double number;
} chat_token;

typedef struct chat_tokens {
  chat_token *items;
  int count, cap;
} chat_tokens;

dp_status chat_lex(dp_arena *arena, const char *source, size_t n, chat_tokens *out);

typedef enum chat_node_kind {
  /* expressions */
  CHAT_N_CONST,     /* value */
  CHAT_N_NAME,      /* name */
  CHAT_N_LIST,      /* items; is_tuple */
  CHAT_N_DICT,      /* items: key, value, key, value */
  CHAT_N_ATTRIBUTE, /* a . name */
  CHAT_N_ITEM,      /* a [ b ] */
  CHAT_N_SLICE,     /* a [ items[0] : items[1] : items[2] ], each may be NULL */
  CHAT_N_CALL,      /* a ( items, keywords ) */
  CHAT_N_FILTER,    /* a | builtin ( items, keywords ) ; a NULL in a set block */
  CHAT_N_TEST,      /* a is builtin ( items ) */
  CHAT_N_NOT,       /* a */
  CHAT_N_AND,       /* a, b */
  CHAT_N_OR,        /* a, b */
  CHAT_N_CONDITION, /* b if a else c, which may be NULL */
  CHAT_N_COMPARE,   /* a, then items with operators in keywords */
  CHAT_N_CONCAT,    /* items */
  CHAT_N_BINARY,    /* a name b */
  CHAT_N_SIGN,      /* name a */
  /* statements */
  CHAT_N_DATA,             /* name: the text */
  CHAT_N_PRINT,            /* a */
  CHAT_N_BODY,             /* items */
  CHAT_N_IF,               /* a, then body b, else c, which may be NULL */
  CHAT_N_FOR,              /* target a in b, if c; items[0] body, items[1] else, each may be NULL */
  CHAT_N_SET,              /* target a = b; or the block c through the filters b, which may be NULL */
  CHAT_N_NAMESPACE_TARGET, /* target name . keywords[0] */
  CHAT_N_MACRO,            /* name; parameters keywords, defaults items (aligned, may be NULL); body a */
  CHAT_N_WITH,             /* targets and values items: target, value, ...; body a */
  CHAT_N_BREAK,
  CHAT_N_CONTINUE,
} chat_node_kind;

struct chat_node {
  chat_node_kind kind;
  int line;
  bool is_tuple;
  chat_text name;
  chat_value value;
  const chat_builtin *builtin;
  chat_node *a, *b, *c;
  chat_node **items; /* for calls: by position, then by keyword */
  chat_text *keywords;
  int count, cap, keyword_count, keyword_cap;
};

dp_status chat_parse(dp_arena *arena, const chat_tokens *tokens, chat_node **out);
void chat_exec(chat_run *run, chat_scope *scope, const chat_node *node);

/* Variables of one block; looked up from the inside out. */
typedef struct chat_variable {
  chat_text name;
  chat_value value;
} chat_variable;

struct chat_scope {
  chat_scope *outer; /* NULL: the template's own */
  chat_variable *items;
  int count, capacity;
  bool captured; /* a macro keeps it */
};

void chat_set(chat_run *run, chat_scope *scope, chat_text name, chat_value value);

#endif
