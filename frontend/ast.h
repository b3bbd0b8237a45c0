/* frontend/ast.h: the syntax tree of a text, as the parser builds it. Nodes live in the compile's arena and keep the
 * place they came from; the resolver adds to them what each name means (`symbol`), and nothing else changes them.
 * A tree is never deeper than AST_MAX_DEPTH, so whoever walks one may recurse. */
#ifndef DIPPER_FRONTEND_AST_H
#define DIPPER_FRONTEND_AST_H

#include "base/base.h"

enum { AST_MAX_DEPTH = 200, AST_MAX_NAME = 255 };

typedef struct fe_symbol fe_symbol; /* frontend/sema.h */
typedef struct ast_expr ast_expr;
typedef struct ast_statement ast_statement;

typedef struct ast_name {
  const char *text;
  dp_loc loc;
} ast_name;

typedef struct ast_names {
  ast_name *items;
  int count, cap;
} ast_names;

/* ---- expressions ------------------------------------------------------------------------------------------------- */

typedef struct ast_exprs {
  ast_expr **items;
  int count, cap;
} ast_exprs;

/* One argument of a call: `value`, or `name = value`. */
typedef struct ast_argument {
  ast_name name; /* text is NULL when positional */
  ast_expr *value;
} ast_argument;

typedef struct ast_arguments {
  ast_argument *items;
  int count, cap;
} ast_arguments;

typedef enum ast_expr_kind {
  AST_ERROR,  /* reported already */
  AST_INT,    /* integer */
  AST_FLOAT,  /* number */
  AST_NAME,   /* name */
  AST_NEGATE, /* -left */
  AST_BINARY, /* left op right */
  AST_INDEX,  /* left[right] */
  AST_FIELD,  /* left.name */
  AST_CALL,   /* name(arguments) */
  AST_AS,     /* left as [shape] */
} ast_expr_kind;

struct ast_expr {
  ast_expr_kind kind;
  dp_loc loc;
  int depth; /* of the tree below, 1 for a leaf */
  int64_t integer;
  double number;
  ast_name name;
  char op; /* + - * / @ */
  ast_expr *left, *right;
  ast_arguments arguments;
  ast_exprs shape;
  fe_symbol *symbol; /* what `name` means; NULL after an error that was reported */
  bool binds;        /* in a parameter's shape: this use gives the name its value */
};

/* ---- statements -------------------------------------------------------------------------------------------------- */

typedef struct ast_statements {
  ast_statement *first, *last;
  int depth; /* of nested loops, 0 without one */
} ast_statements;

typedef enum ast_statement_kind {
  AST_ASSIGN, /* name = value; */
  AST_FOR,    /* for name in first .. value { body } */
  AST_RETURN, /* return value; */
  AST_DROP,   /* value; */
} ast_statement_kind;

struct ast_statement {
  ast_statement_kind kind;
  dp_loc loc;
  ast_name name;
  ast_expr *value;
  ast_expr *first; /* AST_FOR: NULL is 0 */
  ast_statements body;
  ast_statement *next;
  fe_symbol *symbol;   /* the variable that is assigned, or the loop's index */
  fe_symbol **carried; /* AST_FOR: variables from before the loop that its body assigns, in order of declaration */
  int carried_count;
};

/* ---- declarations ------------------------------------------------------------------------------------------------ */

/* dim or const: name = value from keys */
typedef struct ast_definition {
  ast_name name;
  ast_expr *value;
  ast_names keys;
} ast_definition;

typedef struct ast_definitions {
  ast_definition *items;
  int count, cap;
} ast_definitions;

/* [dims], where it stands; `given` tells [] from nothing. */
typedef struct ast_shape {
  ast_exprs dims;
  dp_loc loc;
  bool given;
} ast_shape;

typedef struct ast_source {
  ast_name pattern;
  bool transposed;
  ast_expr *run, *step, *first; /* rows run of step at first; NULL where not given */
  ast_expr *paired;             /* heads, or NULL */
  ast_expr *plus;               /* or NULL */
} ast_source;

typedef struct ast_sources {
  ast_source *items;
  int count, cap;
} ast_sources;

typedef struct ast_weight {
  ast_name name;
  ast_shape stack, shape; /* stack.given: one tensor a layer, or for each of two numbers */
  ast_expr *first;        /* the first layer, the stack's first dimension being the end; NULL is 0 */
  ast_name dtype;         /* text is NULL when not given */
  bool optional;
  ast_sources sources;
  ast_name tied;  /* `or` name; text is NULL when not given */
  ast_expr *fill; /* `or` number, or NULL */
  struct ast_weight *next;
} ast_weight;

typedef struct ast_parameter {
  ast_name name;
  ast_shape shape;
  ast_name dtype;
  fe_symbol *symbol;
} ast_parameter;

typedef struct ast_parameters {
  ast_parameter *items;
  int count, cap;
} ast_parameters;

typedef struct ast_calls {
  const ast_expr **items; /* calls of fns */
  int count, cap;
} ast_calls;

/* fn or graph */
typedef struct ast_function {
  ast_name name;
  bool is_graph;
  ast_parameters parameters;
  ast_parameter result; /* shape.given is false when a fn leaves it out; a fn's has no name */
  ast_statements body;
  dp_loc end; /* the closing brace */
  struct ast_function *next;
  /* by the resolver */
  int slot_count; /* locals */
  ast_calls calls;
  bool broken; /* recursive: calls of it are errors, reported already */
  int mark;    /* scratch of the recursion check */
} ast_function;

typedef struct ast_functions {
  ast_function *first, *last;
} ast_functions;

/* dims and consts in order, as the later ones may refer to the earlier */
typedef struct ast_constant {
  ast_definition definition;
  bool is_dim;
  struct ast_constant *next;
} ast_constant;

typedef struct ast_model {
  ast_name name;
  ast_constant *constants, *last_constant;
  ast_weight *weights, *last_weight;
  ast_functions functions; /* fns and graphs */
  struct ast_model *next;
} ast_model;

typedef struct ast_models {
  ast_model *first, *last;
} ast_models;

/* ---- plans and recipes ------------------------------------------------------------------------------------------- */

/* What stands behind the word that a setting begins with; what it means is the setting's to say (settings.h). */
typedef enum ast_item_kind {
  AST_WORD,    /* name: a word of the setting, a weight, a dim or a const */
  AST_PATTERN, /* name, with '*' for any characters */
  AST_STRING,  /* name */
  AST_VALUE,   /* value */
  AST_COMMA,
} ast_item_kind;

typedef struct ast_item {
  ast_item_kind kind;
  dp_loc loc;
  ast_name name;
  ast_expr *value;
} ast_item;

typedef struct ast_items {
  ast_item *items;
  int count, cap;
} ast_items;

typedef struct ast_setting ast_setting;

typedef struct ast_settings {
  ast_setting *first, *last;
} ast_settings;

/* word items; or word items { body } */
struct ast_setting {
  ast_name word;
  ast_items items;
  bool has_body;
  ast_settings body;
  dp_loc loc;
  ast_setting *next;
};

/* plan or recipe */
typedef struct ast_script {
  ast_name name, model;
  ast_settings settings;
  struct ast_script *next;
} ast_script;

typedef struct ast_scripts {
  ast_script *first, *last;
} ast_scripts;

/* ---- the text ---------------------------------------------------------------------------------------------------- */

typedef struct ast_file {
  ast_names imports;
  ast_functions functions;
  ast_models models;
  ast_scripts plans, recipes;
} ast_file;

/* ---- building ---------------------------------------------------------------------------------------------------- */

/* State of one parse. Owned by fe_parse; what it builds lives in `arena`. */
typedef struct fe_parser {
  dp_arena *arena;
  dp_diags *diags;
  const char *text;
  size_t length;
  uint32_t file;
  void *scanner;
  size_t offset;   /* of the next byte the lexer reads */
  bool in_sources; /* behind a weight's `from`: more words are keywords */
  bool in_weight;
  int braces, brackets; /* that are open */
  bool in_settings; /* of a plan or recipe: '*' belongs to a name */
  int kind;         /* of the last token */
  dp_loc previous; /* the last token that was read before the current one */
  dp_loc current;
  struct fe_token *last;
  int errors;   /* before this text */
  bool stopped; /* the rest of the text is not read */
  ast_file *result;
} fe_parser;

/* So many errors that the rest of the text is not read. */
enum { AST_MAX_ERRORS = 100 };
static inline bool ast_stopped(const fe_parser *parser) {
  return parser->stopped || parser->diags->errors - parser->errors >= AST_MAX_ERRORS;
}

/* Reads a text into a tree; NULL after a syntax error (all of them are reported). */
ast_file *fe_parse(uint32_t file, dp_arena *arena, dp_diags *diags);
/* strtod, with a point whatever the process's locale. */
double fe_read_float(const char *text, char **end);

/* lexer.l */
int fe_keyword(const char *text);                   /* the token of what is a keyword, if only in places; or 0 */
void fe_declares(fe_parser *parser, int token); /* of a keyword that begins a declaration of the text */

ast_expr *ast_leaf(fe_parser *parser, ast_expr_kind kind, dp_loc loc);
ast_expr *ast_int(fe_parser *parser, int64_t value, dp_loc loc);
ast_expr *ast_float(fe_parser *parser, double value, dp_loc loc);
ast_expr *ast_reference(fe_parser *parser, ast_name name);
ast_expr *ast_negate(fe_parser *parser, ast_expr *operand, dp_loc loc);
ast_expr *ast_binary(fe_parser *parser, char op, ast_expr *left, ast_expr *right, dp_loc loc);
ast_expr *ast_index(fe_parser *parser, ast_expr *base, ast_expr *index, dp_loc loc);
ast_expr *ast_field(fe_parser *parser, ast_expr *base, ast_name name, dp_loc loc);
ast_expr *ast_call(fe_parser *parser, ast_name name, ast_arguments arguments, dp_loc loc);
ast_expr *ast_as(fe_parser *parser, ast_expr *operand, ast_exprs shape, dp_loc loc);

ast_statement *ast_assign(fe_parser *parser, ast_name name, ast_expr *value, dp_loc loc);
ast_statement *ast_for(fe_parser *parser, ast_name name, ast_expr *first, ast_expr *end, ast_statements body,
                       dp_loc loc);
ast_statement *ast_return(fe_parser *parser, ast_expr *value, dp_loc loc);
ast_statement *ast_drop(fe_parser *parser, ast_expr *value, dp_loc loc);
ast_statements ast_then(ast_statements statements, ast_statement *statement); /* NULL adds nothing */

ast_function *ast_function_new(fe_parser *parser, ast_name name, ast_parameters parameters, ast_parameter result,
                               ast_statements body, bool is_graph, dp_loc end);
void ast_add_function(ast_functions *functions, ast_function *function);
void ast_add_constants(fe_parser *parser, ast_model *model, ast_definitions definitions, bool is_dim);
ast_weight ast_range(ast_expr *first, dp_loc loc);
void ast_add_weight(fe_parser *parser, ast_model *model, ast_weight weight);
void ast_add_model(ast_models *models, ast_model *model);
void ast_add_script(ast_scripts *scripts, ast_script *script);
ast_script *ast_script_new(fe_parser *parser, ast_name name, ast_name model);
ast_setting *ast_setting_new(fe_parser *parser, ast_name word, ast_items items, dp_loc loc);
ast_settings ast_with(ast_settings settings, ast_setting *setting);
/* from "key" after a definition, or , "key" after that. */
void ast_add_key(fe_parser *parser, ast_definitions *definitions, ast_name key, bool first);

#endif
