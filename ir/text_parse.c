/* ir/text_parse.c: the text form (docs/ir.md) back to a module, by recursive descent; each function is named after what
 * it reads. Types of results are inferred by ir_emit and compared with those written. Reading stops at the first
 * mistake. Texts may be hostile: nesting, numbers and sizes are limited, and what comes out passes ir_verify. */
#include "ir/graph.h"
#include "ir/shape.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, MAX_TEXT = 1 << 28, MAX_WEIGHTS = 1 << 14, MAX_GRAPHS = 1 << 10 };
static const int64_t max_size = INT64_C(1) << 40; /* of a dimension */

typedef enum token_kind {
  TOKEN_END,
  TOKEN_WORD,   /* module, f32, model.norm */
  TOKEN_VALUE,  /* %x */
  TOKEN_SYMBOL, /* @embed */
  TOKEN_NUMBER, /* 12, 1.5e-5: signs are tokens of their own */
  TOKEN_STRING,
  TOKEN_PUNCT,
  TOKEN_WRONG, /* already reported */
} token_kind;

typedef struct token {
  token_kind kind;
  dp_loc loc;
  const char *text; /* without % and @; strings without quotes and escapes */
} token;

/* A name, and the block (by number) it was defined in. */
typedef struct name_entry {
  const char *name;
  ir_value *value;
  int scope;
  dp_loc loc;
  struct name_entry *next;
} name_entry;

typedef struct parser {
  dp_diags *diags;
  dp_arena *arena; /* of names and tokens; the module has its own */
  ir_module *module;
  locale_t c_locale; /* numbers have a point, whatever the process's locale */
  const char *text;
  size_t length, at;
  uint32_t file;
  token token; /* the next one */
  bool failed;
  name_entry *names[1024]; /* of the graph being read */
  int scopes[MAX_DEPTH], depth, scope_count;
  int graph_count;
} parser;

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

#define FAIL(p, loc, ...) return fail(p), dp_error((p)->diags, loc, __VA_ARGS__), false

static void fail(parser *p) {
  p->failed = true;
  p->token.kind = TOKEN_WRONG;
}

static dp_loc loc_at(const parser *p, size_t begin, size_t end) {
  return (dp_loc){p->file, (uint32_t)begin, (uint32_t)end};
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool is_word(char c) { return is_letter(c) || is_digit(c) || c == '.'; }

static void skip_blank(parser *p) {
  for (; p->at < p->length; p->at++) {
    char c = p->text[p->at];
    if (c == '/' && p->at + 1 < p->length && p->text[p->at + 1] == '/') {
      while (p->at < p->length && p->text[p->at] != '\n') p->at++;
      if (p->at == p->length) return;
    } else if (c != ' ' && c != '\t' && c != '\n' && c != '\r') {
      return;
    }
  }
}

/* p->at stands on the 'x' of "\xNN" */
static int hex_byte(parser *p) {
  int value = 0;
  for (int i = 1; i <= 2; i++) {
    char c = p->at + (size_t)i < p->length ? p->text[p->at + (size_t)i] : 0;
    if (is_digit(c))
      value = value * 16 + c - '0';
    else if (c >= 'a' && c <= 'f')
      value = value * 16 + c - 'a' + 10;
    else if (c >= 'A' && c <= 'F')
      value = value * 16 + c - 'A' + 10;
    else
      return 0;
  }
  p->at += 2;
  return value;
}

static bool string_token(parser *p, size_t begin) {
  dp_str text = {0};
  for (p->at++; p->at < p->length && p->text[p->at] != '"' && p->text[p->at] != '\n'; p->at++) {
    char c = p->text[p->at];
    if (c == '\\') {
      p->at++;
      c = p->at < p->length ? p->text[p->at] : 0;
      c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'x' ? (char)hex_byte(p) : c == '"' || c == '\\' ? c : 0;
    }
    if (!c) {
      dp_str_free(&text);
      FAIL(p, loc_at(p, p->at < p->length ? p->at : begin, p->at + 1), "a string cannot hold this");
    }
    dp_str_addc(&text, c);
  }
  p->token.kind = TOKEN_STRING;
  p->token.text = dp_arena_strndup(p->arena, text.text ? text.text : "", text.length);
  dp_str_free(&text);
  if (p->at >= p->length || p->text[p->at] != '"')
    FAIL(p, loc_at(p, begin, begin + 1), "this string does not end on its line");
  p->at++;
  return true;
}

static void number_token(parser *p) {
  while (p->at < p->length && is_digit(p->text[p->at])) p->at++;
  if (p->at < p->length && p->text[p->at] == '.')
    for (p->at++; p->at < p->length && is_digit(p->text[p->at]);) p->at++;
  if (p->at < p->length && (p->text[p->at] == 'e' || p->text[p->at] == 'E')) {
    size_t exponent = p->at + 1;
    if (exponent < p->length && (p->text[exponent] == '-' || p->text[exponent] == '+')) exponent++;
    if (exponent < p->length && is_digit(p->text[exponent]))
      for (p->at = exponent; p->at < p->length && is_digit(p->text[p->at]);) p->at++;
  }
}

/* Reads the next token into p->token; after a mistake there are no more tokens. */
static bool advance(parser *p) {
  if (p->failed) return false;
  skip_blank(p);
  size_t begin = p->at;
  p->token = (token){TOKEN_END, loc_at(p, begin, begin), ""};
  if (begin == p->length) return true;
  char c = p->text[begin];
  if (c == '"') {
    if (!string_token(p, begin)) return false;
    p->token.loc = loc_at(p, begin, p->at);
    return true;
  }
  if (c == '%' || c == '@') {
    for (p->at++; p->at < p->length && is_word(p->text[p->at]);) p->at++;
    if (p->at == begin + 1) FAIL(p, loc_at(p, begin, begin + 1), "a name must follow '%c'", c);
    p->token.kind = c == '%' ? TOKEN_VALUE : TOKEN_SYMBOL;
  } else if (is_letter(c)) {
    while (p->at < p->length && is_word(p->text[p->at])) p->at++;
    p->token.kind = TOKEN_WORD;
  } else if (is_digit(c)) {
    number_token(p);
    p->token.kind = TOKEN_NUMBER;
  } else if (c && strchr("(){}[]:,=*+-", c)) {
    p->at++;
    p->token.kind = TOKEN_PUNCT;
  } else {
    FAIL(p, loc_at(p, begin, begin + 1), "this character has no meaning here");
  }
  size_t skip = c == '%' || c == '@';
  p->token.text = dp_arena_strndup(p->arena, p->text + begin + skip, p->at - begin - skip);
  p->token.loc = loc_at(p, begin, p->at);
  return true;
}

static bool at_punct(const parser *p, char c) { return p->token.kind == TOKEN_PUNCT && p->token.text[0] == c; }
static bool at_word(const parser *p, const char *word) {
  return p->token.kind == TOKEN_WORD && strcmp(p->token.text, word) == 0;
}

static bool accept(parser *p, char c) { return at_punct(p, c) && advance(p); }
static bool accept_word(parser *p, const char *word) { return at_word(p, word) && advance(p); }

static bool expect(parser *p, char c) {
  if (p->failed) return false;
  if (!at_punct(p, c)) FAIL(p, p->token.loc, "expected '%c'", c);
  return advance(p);
}

static bool expect_word(parser *p, const char *word) {
  if (p->failed) return false;
  if (!at_word(p, word)) FAIL(p, p->token.loc, "expected '%s'", word);
  return advance(p);
}

static bool expect_kind(parser *p, token_kind kind, const char *what, token *found) {
  if (p->failed) return false;
  if (p->token.kind != kind) FAIL(p, p->token.loc, "expected %s", what);
  *found = p->token;
  return advance(p);
}

/* integer := digits, of at most `most` */
static bool integer(parser *p, int64_t most, int64_t *value) {
  token t;
  if (!expect_kind(p, TOKEN_NUMBER, "an integer", &t)) return false;
  *value = 0;
  for (const char *at = t.text; *at; at++) {
    if (!is_digit(*at)) FAIL(p, t.loc, "expected an integer");
    if (__builtin_mul_overflow(*value, 10, value) || __builtin_add_overflow(*value, *at - '0', value) || *value > most)
      FAIL(p, t.loc, "this number is too large; at most %lld is allowed here", (long long)most);
  }
  return true;
}

/* ---- types ------------------------------------------------------------------------------------------------------- */

/* dim := [name ":"] (integer | [integer "*"] symbol [("+" | "-") integer]) */
static bool dim(parser *p, ir_dim *d) {
  *d = (ir_dim){0};
  token t = p->token;
  if (t.kind == TOKEN_WORD) {
    if (!advance(p)) return false;
    if (accept(p, ':')) {
      d->name = t.text;
      t = p->token;
      if (t.kind == TOKEN_WORD && !advance(p)) return false;
    }
  }
  if (p->failed) return false;
  if (t.kind == TOKEN_NUMBER) {
    int64_t number;
    if (!integer(p, max_size, &number)) return false;
    if (number < 1) FAIL(p, t.loc, "a dimension is at least 1");
    if (!accept(p, '*')) {
      d->add = number;
      return !p->failed;
    }
    d->coef = number;
    if (!expect_kind(p, TOKEN_WORD, "the symbol of a dimension", &t)) return false;
  } else if (t.kind == TOKEN_WORD) {
    d->coef = 1;
  } else {
    FAIL(p, t.loc, "expected a dimension");
  }
  d->symbol = t.text;
  bool minus = at_punct(p, '-');
  if (!minus && !at_punct(p, '+')) return true;
  if (!advance(p) || !integer(p, max_size, &d->add)) return false;
  if (minus) d->add = -d->add;
  return true;
}

/* type := dtype "[" [dim {"," dim}] "]" */
static bool type(parser *p, ir_type *result) {
  token t;
  *result = (ir_type){0};
  if (!expect_kind(p, TOKEN_WORD, "a type", &t)) return false;
  if (!ir_dtype_parse(t.text, &result->dtype)) FAIL(p, t.loc, "there is no element type '%s'", t.text);
  if (!expect(p, '[')) return false;
  if (accept(p, ']')) return true;
  do {
    if (result->rank == IR_MAX_RANK) FAIL(p, p->token.loc, "a type has at most %d dimensions", IR_MAX_RANK);
    if (!dim(p, &result->dims[result->rank++])) return false;
  } while (accept(p, ','));
  return expect(p, ']');
}

/* A type that a value may have. */
static bool value_type(parser *p, ir_type *result) {
  dp_loc loc = p->token.loc;
  const char *why;
  if (!type(p, result)) return false;
  if (!ir_type_usable(result, &why)) FAIL(p, loc, "no value has this type: %s", why);
  return true;
}

/* ---- names of values --------------------------------------------------------------------------------------------- */

static name_entry **bucket_of(parser *p, const char *name) {
  return &p->names[dp_hash(0, name, strlen(name)) % DP_COUNT(p->names)];
}

static name_entry *find_name(parser *p, const char *name) {
  for (name_entry *entry = *bucket_of(p, name); entry; entry = entry->next)
    if (strcmp(entry->name, name) == 0) return entry;
  return NULL;
}

/* What the printer made "x.3" of, "x"; values that had no hint were printed as numbers. */
static const char *hint_of(parser *p, const char *name) {
  size_t length = strlen(name), end = length;
  for (;;) {
    while (end > 0 && name[end - 1] >= '0' && name[end - 1] <= '9') end--;
    if (end == 0) return NULL;
    if (end == length || name[end - 1] != '.') return dp_arena_strndup(p->arena, name, length);
    length = --end;
  }
}

static bool define(parser *p, const token *t, ir_value *value) {
  name_entry *other = find_name(p, t->text);
  if (other) {
    fail(p);
    dp_error(p->diags, t->loc, "%%%s is defined twice", t->text);
    dp_note(p->diags, other->loc, "the other place is here");
    return false;
  }
  name_entry **bucket = bucket_of(p, t->text), *entry = DP_NEW(p->arena, name_entry);
  *entry = (name_entry){t->text, value, p->scopes[p->depth - 1], t->loc, *bucket};
  *bucket = entry;
  return true;
}

static bool open_scope(parser *p) {
  if (p->depth == MAX_DEPTH) FAIL(p, p->token.loc, "more than %d bodies inside each other", MAX_DEPTH);
  p->scopes[p->depth++] = p->scope_count++;
  return true;
}

static bool value_use(parser *p, ir_value **value) {
  token t;
  if (!expect_kind(p, TOKEN_VALUE, "a value", &t)) return false;
  name_entry *entry = find_name(p, t.text);
  if (!entry) FAIL(p, t.loc, "%%%s is not defined before this use", t.text);
  for (int i = 0; i < p->depth; i++) {
    if (p->scopes[i] == entry->scope) {
      *value = entry->value;
      return true;
    }
  }
  fail(p);
  dp_error(p->diags, t.loc, "%%%s cannot be seen from here", t.text);
  dp_note(p->diags, entry->loc, "it belongs to a body that ended");
  return false;
}

/* ---- ops --------------------------------------------------------------------------------------------------------- */

/* float := ["-"] (number | "inf" | "nan") */
static bool float_value(parser *p, double *value) {
  bool minus = accept(p, '-');
  token t = p->token;
  if (p->failed) return false;
  if (at_word(p, "inf"))
    *value = INFINITY;
  else if (at_word(p, "nan"))
    *value = NAN;
  else if (t.kind == TOKEN_NUMBER)
    *value = strtod_l(t.text, NULL, p->c_locale);
  else
    FAIL(p, t.loc, "expected a number");
  if (minus) *value = -*value;
  return advance(p);
}

static bool attr_value(parser *p, ir_attr *attr) {
  token t;
  switch (attr->kind) {
  case IR_ATTR_INT: {
    bool minus = accept(p, '-');
    if (!integer(p, INT64_MAX, &attr->i)) return false;
    if (minus) attr->i = -attr->i;
    return true;
  }
  case IR_ATTR_FLOAT:
    return float_value(p, &attr->f);
  case IR_ATTR_STRING:
    if (!expect_kind(p, TOKEN_STRING, "a string", &t)) return false;
    attr->s = t.text;
    return true;
  case IR_ATTR_SHAPE:
    return type(p, &attr->shape);
  }
  return false;
}

typedef struct op_text {
  ir_opcode code;
  dp_loc loc;
  token *names; /* of the results */
  int name_count, name_cap;
  ir_value **operands;
  int operand_count, operand_cap;
  ir_attr *attrs;
  int attr_count, attr_cap;
  ir_block *body;
} op_text;

/* attributes := "{" name "=" value {"," name "=" value} "}" */
static bool attributes(parser *p, op_text *op) {
  if (!accept(p, '{')) return !p->failed;
  if (accept(p, '}')) return true;
  do {
    token t;
    if (!expect_kind(p, TOKEN_WORD, "the name of an attribute", &t)) return false;
    char kind = ir_attr_kind_of(op->code, t.text, NULL);
    if (!kind)
      FAIL(p, t.loc, "%s has no attribute '%s'; %s", ir_op_info_of(op->code)->name, t.text,
           ir_attr_suggestion(op->code, t.text, p->arena));
    ir_attr attr = {.name = t.text, .kind = (ir_attr_kind)kind};
    for (int i = 0; i < op->attr_count; i++)
      if (strcmp(op->attrs[i].name, t.text) == 0) FAIL(p, t.loc, "attribute '%s' is given twice", t.text);
    if (!expect(p, '=') || !attr_value(p, &attr)) return false;
    DP_PUSH(p->arena, op->attrs, op->attr_count, op->attr_cap) = attr;
  } while (accept(p, ','));
  return expect(p, '}');
}

/* arguments := "(" [value ":" type {"," value ":" type}] ")" */
static bool arguments(parser *p, ir_block *block) {
  if (!expect(p, '(')) return false;
  if (accept(p, ')')) return true;
  do {
    token t;
    ir_type arg;
    if (!expect_kind(p, TOKEN_VALUE, "an argument", &t) || !expect(p, ':') || !value_type(p, &arg)) return false;
    if (!define(p, &t, ir_add_arg(block, &arg, hint_of(p, t.text)))) return false;
  } while (accept(p, ','));
  return expect(p, ')');
}

static bool opcode(parser *p, ir_opcode *code) {
  token t;
  if (!expect_kind(p, TOKEN_WORD, "an op", &t)) return false;
  if (ir_opcode_parse(t.text, code)) return true;
  const char *names[IR_OP_COUNT];
  for (int i = 0; i < IR_OP_COUNT; i++) names[i] = ir_op_info_of((ir_opcode)i)->name;
  const char *near = dp_nearest_name(t.text, names, IR_OP_COUNT);
  if (near) FAIL(p, t.loc, "there is no op '%s'; did you mean '%s'?", t.text, near);
  FAIL(p, t.loc, "there is no op '%s'", t.text);
}

static const char *type_text(parser *p, const ir_type *t) {
  dp_str s = {0};
  ir_print_type(&s, t);
  const char *text = dp_arena_strdup(p->arena, s.text ? s.text : "");
  dp_str_free(&s);
  return text;
}

/* result types := [":" type {"," type}], checked against those inferred. Those written stay, for their names. */
static bool result_types(parser *p, ir_op *op) {
  if (!accept(p, ':')) return !p->failed;
  for (int i = 0; i < op->result_count; i++) {
    dp_loc loc = p->token.loc;
    ir_type written;
    if ((i && !expect(p, ',')) || !type(p, &written)) return false;
    ir_type *inferred = &op->results[i]->type;
    if (!ir_type_equal(&written, inferred))
      FAIL(p, loc, "written is %s but result %d of %s is %s", type_text(p, &written), i + 1,
           ir_op_info_of(op->code)->name, type_text(p, inferred));
    for (int d = 0; d < inferred->rank; d++) {
      const char *name = written.dims[d].name;
      inferred->dims[d].name = name ? dp_arena_strdup(p->module->arena, name) : NULL;
    }
  }
  return true;
}

static bool block(parser *p, ir_block *block, ir_opcode terminator);

/* op := [value {"," value} "="] opcode [value {"," value}] [attributes] [arguments "{" block "}"] [result types] */
static bool op(parser *p, ir_block *parent, ir_opcode *code) {
  op_text o = {0};
  if (p->token.kind == TOKEN_VALUE) {
    do {
      token t;
      if (!expect_kind(p, TOKEN_VALUE, "a value", &t)) return false;
      DP_PUSH(p->arena, o.names, o.name_count, o.name_cap) = t;
    } while (accept(p, ','));
    if (!expect(p, '=')) return false;
  }
  o.loc = p->token.loc;
  if (!opcode(p, &o.code)) return false;
  if (p->token.kind == TOKEN_VALUE) {
    do {
      ir_value *value;
      if (!value_use(p, &value)) return false;
      DP_PUSH(p->arena, o.operands, o.operand_count, o.operand_cap) = value;
    } while (accept(p, ','));
  }
  if (!attributes(p, &o)) return false;
  if (at_punct(p, '(')) {
    o.body = ir_block_new(p->module, NULL);
    if (!open_scope(p) || !arguments(p, o.body) || !expect(p, '{') || !block(p, o.body, IR_OP_yield)) return false;
    p->depth--;
    if (!expect(p, '}')) return false;
  }
  if (p->failed) return false;
  ir_op *made =
      ir_emit(parent, NULL, o.code, o.operands, o.operand_count, o.attrs, o.attr_count, o.body, o.loc, p->diags);
  if (!made) return fail(p), false;
  if (o.name_count != made->result_count)
    FAIL(p, o.loc, "%s has %d result%s but %d %s named", ir_op_info_of(o.code)->name, made->result_count,
         made->result_count == 1 ? "" : "s", o.name_count, o.name_count == 1 ? "is" : "are");
  for (int i = 0; i < o.name_count; i++) {
    const char *hint = hint_of(p, o.names[i].text);
    made->results[i]->name = hint ? dp_arena_strdup(p->module->arena, hint) : NULL;
    if (!define(p, &o.names[i], made->results[i])) return false;
  }
  *code = o.code;
  return result_types(p, made);
}

/* block := {op} terminator */
static bool block(parser *p, ir_block *block, ir_opcode terminator) {
  for (;;) {
    ir_opcode code = terminator;
    dp_loc loc = p->token.loc;
    if (at_punct(p, '}')) FAIL(p, loc, "expected an op: a body ends in '%s'", ir_op_info_of(terminator)->name);
    if (!op(p, block, &code)) return false;
    if (code == terminator) return true;
    if (ir_op_info_of(code)->traits & IR_TERMINATOR)
      FAIL(p, loc, "this body ends in '%s'", ir_op_info_of(terminator)->name);
  }
}

/* ---- weights, graphs, the module --------------------------------------------------------------------------------- */

/* source := string ["transposed"] ["rows" integer "of" integer] ["at" integer] ["paired" integer] ["plus" float] */
static bool source(parser *p, const ir_weight *weight, ir_source *s) {
  token t;
  if (!expect_kind(p, TOKEN_STRING, "the name of a tensor in a file", &t)) return false;
  s->pattern = dp_arena_strdup(p->module->arena, t.text);
  s->transposed = accept_word(p, "transposed");
  dp_loc loc = p->token.loc;
  if (accept_word(p, "rows")) {
    if (!integer(p, max_size, &s->run) || !expect_word(p, "of") || !integer(p, max_size, &s->step)) return false;
    if (s->run < 1 || s->step < s->run) FAIL(p, loc, "a run has at least 1 row, and a step at least a run");
  }
  if (accept_word(p, "at") && !integer(p, max_size, &s->first)) return false;
  if (accept_word(p, "paired")) {
    if (!integer(p, INT32_MAX, &s->paired)) return false;
    if (s->paired < 1) FAIL(p, loc, "a weight has 1 head or more");
  }
  loc = p->token.loc;
  if (!accept_word(p, "plus")) return !p->failed;
  if (!float_value(p, &s->plus)) return false;
  if (weight->type.rank != weight->stack + 1) FAIL(p, loc, "only to a vector something is added");
  return true;
}

/* sources := "from" source {"," source} */
static bool sources(parser *p, ir_weight *weight) {
  if (!accept_word(p, "from")) return !p->failed;
  int cap = 0;
  do {
    ir_source s = {0};
    if (!source(p, weight, &s)) return false;
    DP_PUSH(p->module->arena, weight->sources, weight->source_count, cap) = s;
  } while (accept(p, ','));
  return !p->failed;
}

/* ["stacked" ["2"] ["first" integer]] */
static bool stack(parser *p, ir_weight *w, dp_loc type_loc) {
  if (!accept_word(p, "stacked")) return !p->failed;
  int64_t dimensions = 1;
  if (p->token.kind == TOKEN_NUMBER && !integer(p, 2, &dimensions)) return false;
  w->stack = (int)dimensions;
  if (dimensions < 1 || w->type.rank < w->stack)
    FAIL(p, type_loc, "a stacked weight needs dimensions that count the tensors");
  return !accept_word(p, "first") || integer(p, INT32_MAX, &w->first_layer);
}

/* stand-in := "or" (symbol | float) */
static bool stand_in(parser *p, ir_weight *w) {
  if (!accept_word(p, "or")) return !p->failed;
  token t = p->token;
  if (t.kind == TOKEN_SYMBOL) {
    w->tied = dp_arena_strdup(p->module->arena, t.text);
    return advance(p);
  }
  w->filled = true;
  return float_value(p, &w->fill);
}

/* weight := "weight" symbol ":" type [stack] ["optional"] ["frozen"] [sources] [stand-in] ["storage" dtype {"," dtype}] */
static bool weight(parser *p) {
  token t;
  ir_type weight_type;
  if (!expect_kind(p, TOKEN_SYMBOL, "the name of a weight", &t) || !expect(p, ':')) return false;
  dp_loc type_loc = p->token.loc;
  if (!value_type(p, &weight_type)) return false;
  for (int i = 0; i < weight_type.rank; i++)
    if (!ir_dim_is_static(weight_type.dims[i])) FAIL(p, type_loc, "the dimensions of a weight are numbers");
  if (p->module->weight_count == MAX_WEIGHTS) FAIL(p, t.loc, "a module has at most %d weights", MAX_WEIGHTS);
  if (ir_find_weight(p->module, t.text)) FAIL(p, t.loc, "weight @%s is declared twice", t.text);
  ir_weight *w = ir_add_weight(p->module, t.text, &weight_type);
  w->loc = t.loc;
  if (!stack(p, w, type_loc)) return false;
  w->optional = accept_word(p, "optional");
  w->frozen = accept_word(p, "frozen");
  if (!sources(p, w) || !stand_in(p, w)) return false;
  if (!accept_word(p, "storage")) return !p->failed;
  do {
    ir_dtype dtype;
    if (!expect_kind(p, TOKEN_WORD, "an element type", &t)) return false;
    if (!ir_dtype_parse(t.text, &dtype)) FAIL(p, t.loc, "there is no element type '%s'", t.text);
    w->storage |= 1u << dtype;
  } while (accept(p, ','));
  return !p->failed;
}

/* A weight may be tied to one declared after it. */
static bool check_ties(parser *p) {
  for (int i = 0; i < p->module->weight_count; i++) {
    ir_weight *w = &p->module->weights[i], *tied = w->tied ? ir_find_weight(p->module, w->tied) : NULL;
    if (w->tied && !tied) FAIL(p, w->loc, "weight @%s is tied to @%s, which is not declared", w->name, w->tied);
    if (tied && (tied == w || !ir_type_equal(&tied->type, &w->type)))
      FAIL(p, w->loc, "weight @%s is tied to @%s, which must be another one of the same type", w->name, w->tied);
  }
  return true;
}

/* graph := "graph" symbol arguments "{" block "}" */
static bool graph(parser *p) {
  token t;
  if (!expect_kind(p, TOKEN_SYMBOL, "the name of a graph", &t)) return false;
  if (p->graph_count++ == MAX_GRAPHS) FAIL(p, t.loc, "a module has at most %d graphs", MAX_GRAPHS);
  if (ir_find_graph(p->module, t.text)) FAIL(p, t.loc, "graph @%s is declared twice", t.text);
  ir_graph *g = ir_add_graph(p->module, t.text);
  g->loc = t.loc;
  memset(p->names, 0, sizeof p->names);
  if (!open_scope(p) || !arguments(p, g->block) || !expect(p, '{') || !block(p, g->block, IR_OP_return)) return false;
  p->depth--;
  return expect(p, '}');
}

/* module := "module" name "{" {weight | graph} "}" */
static bool module(parser *p) {
  token t;
  if (!advance(p) || !expect_word(p, "module") || !expect_kind(p, TOKEN_WORD, "the name of the module", &t))
    return false;
  p->module->name = dp_arena_strdup(p->module->arena, t.text);
  if (!expect(p, '{')) return false;
  while (!accept(p, '}')) {
    if (accept_word(p, "weight")) {
      if (!weight(p)) return false;
    } else if (accept_word(p, "graph")) {
      if (!graph(p)) return false;
    } else {
      if (p->failed) return false;
      FAIL(p, p->token.loc, "expected 'weight', 'graph' or '}'");
    }
  }
  if (p->failed) return false;
  if (p->token.kind != TOKEN_END) FAIL(p, p->token.loc, "the module ended before this");
  return check_ties(p);
}

ir_module *ir_parse(const char *path, const char *text, size_t length, dp_diags *diags) {
  if (length > MAX_TEXT) {
    dp_error(diags, (dp_loc){0}, "%s: a text of %zu bytes is too long", path, length);
    return NULL;
  }
  parser p = {.diags = diags, .text = text, .length = length, .file = dp_diags_add_source(diags, path, text, length)};
  p.arena = dp_arena_new();
  p.module = ir_module_new("");
  p.c_locale = newlocale(LC_ALL_MASK, "C", NULL);
  bool memory = p.arena && p.module && p.c_locale;
  if (!memory) dp_error(diags, (dp_loc){0}, "%s: out of memory", path);
  bool ok = memory && module(&p);
  if (p.c_locale) freelocale(p.c_locale);
  dp_arena_free(p.arena);
  if (ok) return p.module;
  ir_module_free(p.module);
  return NULL;
}
