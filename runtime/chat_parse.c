/* runtime/chat_parse.c: tokens into the tree, by recursive descent; functions are named after Jinja's grammar rules.
 *
 * Filters and tests are looked up here, so that a template that needs one we lack fails when it is loaded. */
#include "runtime/chat_parts.h"

#include <string.h>

typedef struct parser {
  dp_arena *arena;
  const chat_token *token; /* the current one; the last is CHAT_T_END */
  int depth, loops;
  dp_status status; /* the first failure: from then on every rule returns at once */
} parser;

static chat_node *expression(parser *p);
static chat_node *or_rule(parser *p);
static chat_node *unary(parser *p, bool with_filters);
static chat_node *body(parser *p, const char *const *ends);

/* ---- tools ------------------------------------------------------------------------------------------------------ */

static bool ok(const parser *p) { return p->status.code == DP_OK; }

static chat_node *fail(parser *p, dp_code code, const char *fmt, ...) DP_PRINTF(3, 4);
static chat_node *fail(parser *p, dp_code code, const char *fmt, ...) {
  if (!ok(p)) return NULL;
  dp_str message = {0};
  va_list args;
  va_start(args, fmt);
  dp_str_addv(&message, fmt, args);
  va_end(args);
  p->status = dp_fail(code, "chat template, line %d: %s", p->token->line, message.text ? message.text : "");
  dp_str_free(&message);
  return NULL;
}

static chat_node *unexpected(parser *p, const char *wanted) {
  static const char *const names[] = {"the end", "text",     "'{%'",     "'%}'",     "'{{'",       "'}}'",
                                      "a name",  "a string", "a number", "a number", "an operator"};
  const chat_token *t = p->token;
  if (t->kind == CHAT_T_NAME || t->kind == CHAT_T_OPERATOR)
    return fail(p, DP_INVALID, "expected %s, found '%.*s'", wanted, (int)(t->text.length > 40 ? 40 : t->text.length),
                t->text.text);
  return fail(p, DP_INVALID, "expected %s, found %s", wanted, names[t->kind]);
}

static bool deeper(parser *p) {
  if (ok(p) && p->depth >= CHAT_MAX_DEPTH) fail(p, DP_UNSUPPORTED, "nested too deep");
  p->depth++;
  return ok(p);
}

static bool at_operator(const parser *p, const char *op) {
  return p->token->kind == CHAT_T_OPERATOR && chat_is(p->token->text, op);
}

static bool at_name(const parser *p, const char *name) {
  return p->token->kind == CHAT_T_NAME && chat_is(p->token->text, name);
}

static void next(parser *p) {
  if (p->token->kind != CHAT_T_END) p->token++;
}

static bool skip_operator(parser *p, const char *op) {
  if (!ok(p) || !at_operator(p, op)) return false;
  next(p);
  return true;
}

static bool skip_name(parser *p, const char *name) {
  if (!ok(p) || !at_name(p, name)) return false;
  next(p);
  return true;
}

static void expect_operator(parser *p, const char *op) {
  if (ok(p) && !skip_operator(p, op)) unexpected(p, op);
}

static void expect_kind(parser *p, chat_token_kind kind, const char *what) {
  if (!ok(p)) return;
  if (p->token->kind == kind)
    next(p);
  else
    unexpected(p, what);
}

static chat_text expect_name(parser *p) {
  chat_text name = p->token->text;
  expect_kind(p, CHAT_T_NAME, "a name");
  return ok(p) ? name : (chat_text){"", 0};
}

static chat_node *new_node(parser *p, chat_node_kind kind) {
  chat_node *node = DP_NEW(p->arena, chat_node);
  node->kind = kind;
  node->line = p->token->line;
  return node;
}

static void add(parser *p, chat_node *node, chat_node *item) {
  DP_PUSH(p->arena, node->items, node->count, node->cap) = item;
}

static void add_keyword(parser *p, chat_node *node, chat_text name) {
  DP_PUSH(p->arena, node->keywords, node->keyword_count, node->keyword_cap) = name;
}

static chat_node *binary(parser *p, chat_node_kind kind, chat_text op, chat_node *a, chat_node *b) {
  chat_node *node = new_node(p, kind);
  node->name = op;
  node->a = a;
  node->b = b;
  return node;
}

/* ---- expressions ------------------------------------------------------------------------------------------------ */

/* "(" args ")" after a callee, a filter or a test: items by position, then by keyword. */
static void call_args(parser *p, chat_node *node) {
  expect_operator(p, "(");
  while (ok(p) && !at_operator(p, ")")) {
    if (at_operator(p, "*") || at_operator(p, "**")) {
      fail(p, DP_UNSUPPORTED, "'*' before an argument is not handled");
      return;
    }
    bool keyword =
        p->token->kind == CHAT_T_NAME && p->token[1].kind == CHAT_T_OPERATOR && chat_is(p->token[1].text, "=");
    if (keyword) {
      add_keyword(p, node, expect_name(p));
      next(p);
    } else if (node->keyword_count) {
      fail(p, DP_INVALID, "an argument by position after one by keyword");
    }
    add(p, node, expression(p));
    if (!skip_operator(p, ",")) break;
  }
  expect_operator(p, ")");
}

/* The operators that end a tuple without brackets. */
static bool at_tuple_end(const parser *p, const char *word) {
  return p->token->kind == CHAT_T_PRINT_END || p->token->kind == CHAT_T_BLOCK_END || at_operator(p, ")") ||
         (word && at_name(p, word));
}

/* item, item, ... : one without a comma is itself. `end` may be a word that ends it; `item` is the rule of one. */
static chat_node *tuple(parser *p, chat_node *(*item)(parser *), const char *end, bool may_be_empty) {
  chat_node *node = new_node(p, CHAT_N_LIST);
  node->is_tuple = true;
  bool comma = false;
  while (ok(p) && !at_tuple_end(p, end)) {
    add(p, node, item(p));
    if (!skip_operator(p, ",")) break;
    comma = true;
  }
  if (!ok(p)) return NULL;
  if (!comma && node->count == 1) return node->items[0];
  return node->count || may_be_empty ? node : unexpected(p, "an expression");
}

static chat_node *list(parser *p) {
  chat_node *node = new_node(p, CHAT_N_LIST);
  next(p);
  while (ok(p) && !at_operator(p, "]")) {
    add(p, node, expression(p));
    if (!skip_operator(p, ",")) break;
  }
  expect_operator(p, "]");
  return node;
}

static chat_node *dict(parser *p) {
  chat_node *node = new_node(p, CHAT_N_DICT);
  next(p);
  while (ok(p) && !at_operator(p, "}")) {
    add(p, node, expression(p));
    expect_operator(p, ":");
    add(p, node, expression(p));
    if (!skip_operator(p, ",")) break;
  }
  expect_operator(p, "}");
  return node;
}

static chat_node *constant(parser *p, chat_value value) {
  chat_node *node = new_node(p, CHAT_N_CONST);
  node->value = value;
  next(p);
  return node;
}

static chat_node *strings(parser *p) {
  dp_str joined = {0};
  chat_node *node = new_node(p, CHAT_N_CONST);
  for (; p->token->kind == CHAT_T_STRING; next(p)) dp_str_addn(&joined, p->token->text.text, p->token->text.length);
  node->value = chat_string(dp_arena_strndup(p->arena, joined.text ? joined.text : "", joined.length), joined.length);
  dp_str_free(&joined);
  return node;
}

static chat_node *primary(parser *p) {
  if (!ok(p)) return NULL;
  const chat_token *t = p->token;
  switch (t->kind) {
  case CHAT_T_NAME:
    if (chat_is(t->text, "true") || chat_is(t->text, "True")) return constant(p, chat_bool(true));
    if (chat_is(t->text, "false") || chat_is(t->text, "False")) return constant(p, chat_bool(false));
    if (chat_is(t->text, "none") || chat_is(t->text, "None")) return constant(p, CHAT_NOTHING);
    {
      chat_node *node = new_node(p, CHAT_N_NAME);
      node->name = expect_name(p);
      return node;
    }
  case CHAT_T_STRING:
    return strings(p);
  case CHAT_T_INT:
    return constant(p, chat_int(t->integer));
  case CHAT_T_FLOAT:
    return constant(p, chat_float(t->number));
  default:
    break;
  }
  if (at_operator(p, "[")) return list(p);
  if (at_operator(p, "{")) return dict(p);
  if (!skip_operator(p, "(")) return unexpected(p, "an expression");
  chat_node *node = tuple(p, expression, NULL, true);
  expect_operator(p, ")");
  return node;
}

static bool at_slice_end(const parser *p) { return at_operator(p, ":") || at_operator(p, "]"); }

static chat_node *subscript(parser *p, chat_node *object) {
  chat_node *first = at_operator(p, ":") ? NULL : expression(p);
  chat_node *node;
  if (!at_operator(p, ":")) {
    if (ok(p) && at_operator(p, ",")) return fail(p, DP_UNSUPPORTED, "a subscript with ',' is not handled");
    node = binary(p, CHAT_N_ITEM, (chat_text){"[", 1}, object, first);
  } else {
    node = new_node(p, CHAT_N_SLICE);
    node->a = object;
    add(p, node, first);
    next(p);
    add(p, node, at_slice_end(p) ? NULL : expression(p));
    if (skip_operator(p, ":")) add(p, node, at_slice_end(p) ? NULL : expression(p));
  }
  expect_operator(p, "]");
  return node;
}

static chat_node *postfix(parser *p, chat_node *node) {
  while (ok(p)) {
    if (skip_operator(p, ".")) {
      chat_node *object = node;
      if (p->token->kind == CHAT_T_INT) {
        chat_node *index = constant(p, chat_int(p->token->integer));
        node = binary(p, CHAT_N_ITEM, (chat_text){"[", 1}, object, index);
        continue;
      }
      node = new_node(p, CHAT_N_ATTRIBUTE);
      node->name = expect_name(p);
      node->a = object;
    } else if (skip_operator(p, "[")) {
      node = subscript(p, node);
    } else if (at_operator(p, "(")) {
      chat_node *call = new_node(p, CHAT_N_CALL);
      call->a = node;
      call_args(p, call);
      node = call;
    } else {
      break;
    }
  }
  return node;
}

static chat_node *filter(parser *p, chat_node *value) {
  chat_node *node = new_node(p, CHAT_N_FILTER);
  node->a = value;
  const chat_token *name = p->token;
  node->name = expect_name(p);
  node->builtin = ok(p) ? chat_find_filter(node->name) : NULL;
  if (ok(p) && !node->builtin) {
    p->token = name;
    return fail(p, DP_UNSUPPORTED, "the filter '%.*s' is not handled", (int)node->name.length, node->name.text);
  }
  if (ok(p) && at_operator(p, "(")) call_args(p, node);
  return node;
}

static chat_node *test(parser *p, chat_node *value) {
  bool negated = skip_name(p, "not");
  chat_node *node = new_node(p, CHAT_N_TEST);
  node->a = value;
  const chat_token *name = p->token;
  node->name = expect_name(p);
  node->builtin = ok(p) ? chat_find_test(node->name) : NULL;
  if (ok(p) && !node->builtin) {
    p->token = name;
    return fail(p, DP_UNSUPPORTED, "the test '%.*s' is not handled", (int)node->name.length, node->name.text);
  }
  if (!ok(p)) return NULL;
  chat_token_kind kind = p->token->kind;
  bool begins_argument = (kind == CHAT_T_NAME && !at_name(p, "else") && !at_name(p, "or") && !at_name(p, "and")) ||
                         kind == CHAT_T_STRING || kind == CHAT_T_INT || kind == CHAT_T_FLOAT || at_operator(p, "[") ||
                         at_operator(p, "{");
  if (at_operator(p, "(")) {
    call_args(p, node);
  } else if (begins_argument) {
    if (at_name(p, "is")) return fail(p, DP_INVALID, "tests cannot be chained with 'is'");
    add(p, node, postfix(p, primary(p)));
  }
  if (!negated) return node;
  chat_node *inverse = new_node(p, CHAT_N_NOT);
  inverse->a = node;
  return inverse;
}

static chat_node *filters_and_tests(parser *p, chat_node *node) {
  while (ok(p)) {
    if (skip_operator(p, "|")) {
      node = filter(p, node);
    } else if (skip_name(p, "is")) {
      node = test(p, node);
    } else if (at_operator(p, "(")) {
      node = postfix(p, node);
    } else {
      break;
    }
  }
  return node;
}

static chat_node *unary(parser *p, bool with_filters) {
  chat_node *node = NULL;
  if (deeper(p)) {
    if (at_operator(p, "-") || at_operator(p, "+")) {
      node = new_node(p, CHAT_N_SIGN);
      node->name = p->token->text;
      next(p);
      node->a = unary(p, false);
    } else {
      node = primary(p);
    }
    node = postfix(p, node);
    if (with_filters) node = filters_and_tests(p, node);
  }
  p->depth--;
  return node;
}

/* left op right op right ...: one level of binary operators that group to the left. */
static chat_node *left_to_right(parser *p, chat_node *(*operand)(parser *), const char *const *operators) {
  chat_node *left = operand(p);
  while (ok(p) && p->token->kind == CHAT_T_OPERATOR) {
    int i = 0;
    while (operators[i] && !at_operator(p, operators[i])) i++;
    if (!operators[i]) break;
    chat_text op = p->token->text;
    next(p);
    left = binary(p, CHAT_N_BINARY, op, left, operand(p));
  }
  return left;
}

static chat_node *filtered_unary(parser *p) { return unary(p, true); }

static chat_node *power(parser *p) {
  static const char *const operators[] = {"**", NULL};
  return left_to_right(p, filtered_unary, operators);
}

static chat_node *product(parser *p) {
  static const char *const operators[] = {"*", "/", "//", "%", NULL};
  return left_to_right(p, power, operators);
}

static chat_node *concat(parser *p) {
  chat_node *first = product(p);
  if (!ok(p) || !at_operator(p, "~")) return first;
  chat_node *node = new_node(p, CHAT_N_CONCAT);
  add(p, node, first);
  while (skip_operator(p, "~")) add(p, node, product(p));
  return node;
}

static chat_node *sum(parser *p) {
  static const char *const operators[] = {"+", "-", NULL};
  return left_to_right(p, concat, operators);
}

static chat_node *compare(parser *p) {
  chat_node *first = sum(p), *node = NULL;
  while (ok(p)) {
    static const char *const operators[] = {"==", "!=", "<", ">", "<=", ">=", NULL};
    chat_text op = p->token->text;
    int i = 0;
    while (operators[i] && !at_operator(p, operators[i])) i++;
    if (at_name(p, "not") && p->token[1].kind == CHAT_T_NAME && chat_is(p->token[1].text, "in")) {
      op = (chat_text){"not in", 6};
      next(p);
    } else if (!operators[i] && !at_name(p, "in")) {
      break;
    }
    next(p);
    if (!node) {
      node = new_node(p, CHAT_N_COMPARE);
      node->a = first;
    }
    add_keyword(p, node, op);
    add(p, node, sum(p));
  }
  return node ? node : first;
}

static chat_node *not_rule(parser *p) {
  chat_node *node = NULL;
  if (deeper(p)) {
    if (skip_name(p, "not")) {
      node = new_node(p, CHAT_N_NOT);
      node->a = not_rule(p);
    } else {
      node = compare(p);
    }
  }
  p->depth--;
  return node;
}

static chat_node *and_rule(parser *p) {
  chat_node *left = not_rule(p);
  while (skip_name(p, "and")) left = binary(p, CHAT_N_AND, (chat_text){"and", 3}, left, not_rule(p));
  return left;
}

static chat_node *or_rule(parser *p) {
  chat_node *left = and_rule(p);
  while (skip_name(p, "or")) left = binary(p, CHAT_N_OR, (chat_text){"or", 2}, left, and_rule(p));
  return left;
}

/* a if b else c; without else it is undefined when b is false */
static chat_node *expression(parser *p) {
  chat_node *node = NULL;
  if (deeper(p)) {
    node = or_rule(p);
    while (skip_name(p, "if")) {
      chat_node *condition = new_node(p, CHAT_N_CONDITION);
      condition->b = node;
      condition->a = or_rule(p);
      if (skip_name(p, "else")) condition->c = expression(p);
      node = condition;
    }
  }
  p->depth--;
  return node;
}

/* ---- statements ------------------------------------------------------------------------------------------------- */

static chat_node *target_item(parser *p) {
  chat_node *node = new_node(p, CHAT_N_NAME);
  if (at_operator(p, "(")) {
    next(p);
    node = tuple(p, target_item, NULL, false);
    expect_operator(p, ")");
    return node;
  }
  node->name = expect_name(p);
  return node;
}

static chat_node *set_target(parser *p) {
  chat_node *node = target_item(p);
  if (ok(p) && node->kind == CHAT_N_NAME && skip_operator(p, ".")) {
    node->kind = CHAT_N_NAMESPACE_TARGET;
    add_keyword(p, node, expect_name(p));
  }
  return node;
}

static void end_tag(parser *p) { expect_kind(p, CHAT_T_BLOCK_END, "'%}'"); }

static chat_node *if_statement(parser *p) {
  static const char *const ends[] = {"endif", "elif", "else", NULL};
  chat_node *node = new_node(p, CHAT_N_IF), *last = node;
  for (;;) {
    last->a = tuple(p, or_rule, NULL, false);
    end_tag(p);
    last->b = body(p, ends);
    if (!skip_name(p, "elif")) break;
    last = last->c = new_node(p, CHAT_N_IF);
  }
  static const char *const endif[] = {"endif", NULL};
  if (skip_name(p, "else")) {
    end_tag(p);
    last->c = body(p, endif);
  }
  next(p);
  return node;
}

static chat_node *for_statement(parser *p) {
  static const char *const ends[] = {"endfor", "else", NULL}, *const endfor[] = {"endfor", NULL};
  chat_node *node = new_node(p, CHAT_N_FOR);
  node->a = tuple(p, target_item, "in", false);
  if (ok(p) && !skip_name(p, "in")) return unexpected(p, "'in'");
  node->b = tuple(p, or_rule, "recursive", false);
  if (skip_name(p, "if")) node->c = expression(p);
  if (ok(p) && at_name(p, "recursive")) return fail(p, DP_UNSUPPORTED, "'recursive' is not handled");
  end_tag(p);
  p->loops++;
  add(p, node, body(p, ends));
  p->loops--;
  if (skip_name(p, "else")) {
    end_tag(p);
    add(p, node, body(p, endfor));
  } else {
    add(p, node, NULL);
  }
  next(p);
  return node;
}

static chat_node *set_statement(parser *p) {
  static const char *const ends[] = {"endset", NULL};
  chat_node *node = new_node(p, CHAT_N_SET);
  node->a = tuple(p, set_target, NULL, false);
  if (skip_operator(p, "=")) {
    node->b = tuple(p, expression, NULL, false);
    return node;
  }
  while (skip_operator(p, "|")) node->b = filter(p, node->b);
  end_tag(p);
  node->c = body(p, ends);
  next(p);
  return node;
}

static chat_node *macro_statement(parser *p) {
  static const char *const ends[] = {"endmacro", NULL};
  chat_node *node = new_node(p, CHAT_N_MACRO);
  node->name = expect_name(p);
  expect_operator(p, "(");
  while (ok(p) && !at_operator(p, ")")) {
    add_keyword(p, node, expect_name(p));
    add(p, node, skip_operator(p, "=") ? expression(p) : NULL);
    if (!skip_operator(p, ",")) break;
  }
  expect_operator(p, ")");
  end_tag(p);
  int loops = p->loops;
  p->loops = 0;
  node->a = body(p, ends);
  p->loops = loops;
  next(p);
  return node;
}

static chat_node *with_statement(parser *p) {
  static const char *const ends[] = {"endwith", NULL};
  chat_node *node = new_node(p, CHAT_N_WITH);
  while (ok(p) && p->token->kind != CHAT_T_BLOCK_END) {
    add(p, node, target_item(p));
    expect_operator(p, "=");
    add(p, node, expression(p));
    if (!skip_operator(p, ",")) break;
  }
  end_tag(p);
  node->a = body(p, ends);
  next(p);
  return node;
}

/* transformers' own: marks what the assistant says, and prints it as it is. */
static chat_node *generation_statement(parser *p) {
  static const char *const ends[] = {"endgeneration", NULL};
  end_tag(p);
  chat_node *node = body(p, ends);
  next(p);
  return node;
}

static chat_node *leap_statement(parser *p, chat_node_kind kind) {
  if (!p->loops) return fail(p, DP_INVALID, "break or continue outside of a loop");
  return new_node(p, kind);
}

/* After "{%". */
static chat_node *statement(parser *p) {
  if (skip_name(p, "if")) return if_statement(p);
  if (skip_name(p, "for")) return for_statement(p);
  if (skip_name(p, "set")) return set_statement(p);
  if (skip_name(p, "macro")) return macro_statement(p);
  if (skip_name(p, "with")) return with_statement(p);
  if (skip_name(p, "generation")) return generation_statement(p);
  if (skip_name(p, "break")) return leap_statement(p, CHAT_N_BREAK);
  if (skip_name(p, "continue")) return leap_statement(p, CHAT_N_CONTINUE);
  if (p->token->kind != CHAT_T_NAME) return unexpected(p, "a statement");
  bool is_end = p->token->text.length > 3 && memcmp(p->token->text.text, "end", 3) == 0;
  return fail(p, is_end ? DP_INVALID : DP_UNSUPPORTED,
              is_end ? "'%.*s' ends nothing" : "the statement '%.*s' is not handled",
              (int)(p->token->text.length > 40 ? 40 : p->token->text.length), p->token->text.text);
}

static bool at_one_of(const parser *p, const char *const *names) {
  for (; *names; names++)
    if (at_name(p, *names)) return true;
  return false;
}

/* Up to "{%" and one of `ends`, which is then the current token; NULL: up to the end of the template. */
static chat_node *body(parser *p, const char *const *ends) {
  chat_node *node = new_node(p, CHAT_N_BODY);
  bool fits = deeper(p);
  while (fits && ok(p)) {
    if (p->token->kind == CHAT_T_END) {
      if (ends) fail(p, DP_INVALID, "the end of the template, before '{%% %s %%}'", ends[0]);
      break;
    }
    if (p->token->kind == CHAT_T_DATA) {
      chat_node *data = new_node(p, CHAT_N_DATA);
      data->name = p->token->text;
      next(p);
      add(p, node, data);
    } else if (p->token->kind == CHAT_T_PRINT_BEGIN) {
      next(p);
      chat_node *print = new_node(p, CHAT_N_PRINT);
      print->a = tuple(p, expression, NULL, false);
      expect_kind(p, CHAT_T_PRINT_END, "'}}'");
      add(p, node, print);
    } else {
      next(p); /* "{%" */
      if (ends && at_one_of(p, ends)) break;
      add(p, node, statement(p));
      end_tag(p);
    }
  }
  p->depth--;
  return node;
}

dp_status chat_parse(dp_arena *arena, const chat_tokens *tokens, chat_node **out) {
  parser p = {.arena = arena, .token = tokens->items};
  chat_node *root = body(&p, NULL);
  *out = ok(&p) ? root : NULL;
  return p.status;
}
