/* frontend/parser.y: the grammar (docs/language.md has it as EBNF). Pure and reentrant; actions only build the tree,
 * which lives in an arena, so no destructors. After a mistake the parser goes on at the next ';', block or '}'. */

%require "3.6"
%expect 0
%locations
%define api.pure full
%define api.prefix {dip_}
%define api.token.prefix {TOK_}
%define api.value.type union
%define api.location.type {dp_loc}
%define parse.error custom
%define parse.lac full
%parse-param {fe_parser *parser} {void *scanner}
%lex-param {void *scanner}

%code requires {
#include "frontend/ast.h"
}

%code {
#include <string.h>

/* States on the parser's stack: only nesting makes it deep, lists do not. */
#define YYMAXDEPTH 3000

#define YYLLOC_DEFAULT(current, rhs, n)                                                                                \
  do {                                                                                                                 \
    if (n)                                                                                                             \
      (current) = (dp_loc){YYRHSLOC(rhs, 1).file, YYRHSLOC(rhs, 1).begin, YYRHSLOC(rhs, n).end};                       \
    else                                                                                                               \
      (current) = (dp_loc){YYRHSLOC(rhs, 0).file, YYRHSLOC(rhs, 0).end, YYRHSLOC(rhs, 0).end};                         \
  } while (0)

#define ADD(list) DP_PUSH(parser->arena, (list).items, (list).count, (list).cap)

int dip_lex(DIP_STYPE *value, DIP_LTYPE *loc, void *scanner);
static void dip_error(const dp_loc *loc, fe_parser *parser, void *scanner, const char *message);

/* The token that was read last. After some mistakes it is read again, behind a ';' that ends what went wrong. */
struct fe_token {
  int kind;
  DIP_STYPE value;
  dp_loc loc;
  enum { READ_ON, END_FIRST, READ_AGAIN } repair;
};

static int next_token(DIP_STYPE *value, dp_loc *loc, fe_parser *parser, void *scanner) {
  struct fe_token *last = parser->last;
  if (last->repair == END_FIRST) {
    last->repair = READ_AGAIN;
    return ';';
  }
  if (last->repair == READ_ON) last->kind = dip_lex(&last->value, &last->loc, scanner);
  last->repair = READ_ON;
  *value = last->value;
  *loc = last->loc;
  return last->kind;
}
#undef yylex
#define yylex(value, loc, scanner) next_token((value), (loc), parser, (scanner))
}

%initial-action { parser->last = DP_NEW(parser->arena, struct fe_token); }

%token AS "'as'" CONST "'const'" DIM "'dim'" FN "'fn'" FOR "'for'" FROM "'from'" GRAPH "'graph'" IMPORT "'import'"
       IN "'in'" MODEL "'model'" OPTIONAL "'optional'" OR "'or'" PAIRED "'paired'" RETURN "'return'" WEIGHT "'weight'"
/* words that begin a declaration of the text, names elsewhere */
%token PLAN "'plan'" RECIPE "'recipe'"
%token ARROW "'->'" DOTS "'..'"
/* words of a weight's sources, names elsewhere */
%token AT "'at'" OF "'of'" PLUS "'plus'" ROWS "'rows'" TRANSPOSED "'transposed'"
%token <ast_name> NAME "a name" STRING "a string" PATTERN "a pattern of names"
%token <int64_t> INT "an integer"
%token <double> FLOAT "a number"
%token END 0 "the end of the file"

%type <ast_file *> file
%type <ast_model *> items
%type <ast_function *> function graph
%type <ast_definitions> definitions
%type <ast_weight> weight weight_head typed_weight
%type <ast_sources> sources
%type <ast_source> source window
%type <bool> transposed
%type <ast_expr *> paired plus number
%type <ast_weight> range
%type <ast_parameters> parameters parameter_list
%type <ast_parameter> parameter result
%type <ast_shape> shape optional_shape
%type <ast_name> optional_dtype
%type <ast_statements> block statements
%type <ast_statement *> statement
%type <ast_script *> plan recipe
%type <ast_settings> settings
%type <ast_setting *> setting setting_head
%type <ast_items> items_of_setting
%type <ast_item> item
%type <ast_exprs> exprs
%type <ast_arguments> arguments argument_list
%type <ast_argument> argument
%type <ast_expr *> expr product cast unary postfix primary

%%

start: file                        { parser->result = $1; }

file:
  %empty                           { $$ = DP_NEW(parser->arena, ast_file); }
| file "'import'" "a string" ';'   { $$ = $1; ADD($$->imports) = $3; }
| file function                    { $$ = $1; if ($2) ast_add_function(&$$->functions, $2); }
| file "'model'" "a name" '{' items '}' {
    $$ = $1;
    $5->name = $3;
    ast_add_model(&$$->models, $5);
  }
| file "'model'" "a name" '{' items error '}'  { $$ = $1; yyerrok; }
| file "'model'" error '{' items '}'           { $$ = $1; yyerrok; }
| file plan                        { $$ = $1; if ($2) ast_add_script(&$$->plans, $2); }
| file recipe                      { $$ = $1; if ($2) ast_add_script(&$$->recipes, $2); }
| file error ';'                   { $$ = $1; yyerrok; }
| file error '}'                   { $$ = $1; yyerrok; }

items:
  %empty                           { $$ = DP_NEW(parser->arena, ast_model); }
| items "'dim'" definitions ';'    { $$ = $1; ast_add_constants(parser, $$, $3, true); }
| items "'const'" definitions ';'  { $$ = $1; ast_add_constants(parser, $$, $3, false); }
| items weight ';'                 { $$ = $1; ast_add_weight(parser, $$, $2); }
| items function                   { $$ = $1; if ($2) ast_add_function(&$$->functions, $2); }
| items graph                      { $$ = $1; if ($2) ast_add_function(&$$->functions, $2); }
| items error ';'                  { $$ = $1; yyerrok; }

/* One list, not a list of lists: after ',' a name begins the next definition and a string is one more key. */
definitions:
  "a name" '=' expr                { $$ = (ast_definitions){0}; ADD($$) = (ast_definition){.name = $1, .value = $3}; }
| definitions ',' "a name" '=' expr  { $$ = $1; ADD($$) = (ast_definition){.name = $3, .value = $5}; }
| definitions "'from'" "a string"  { $$ = $1; ast_add_key(parser, &$$, $3, true); }
| definitions ',' "a string"       { $$ = $1; ast_add_key(parser, &$$, $3, false); }

weight:
  weight_head                      { $$ = $1; }
| weight_head "'from'" sources     { $$ = $1; $$.sources = $3; }
| weight_head "'from'" sources "'or'" "a name"  { $$ = $1; $$.sources = $3; $$.tied = $5; }
| weight_head "'from'" sources "'or'" number  { $$ = $1; $$.sources = $3; $$.fill = $5; }
| weight_head "'or'" "a name"      { $$ = $1; $$.tied = $3; }

weight_head:
  typed_weight
| typed_weight "'optional'"        { $$ = $1; $$.optional = true; }

typed_weight:
  "'weight'" "a name" shape optional_dtype {
    $$ = (ast_weight){.name = $2, .shape = $3, .dtype = $4};
  }
| "'weight'" "a name" shape shape optional_dtype {
    $$ = (ast_weight){.name = $2, .stack = $3, .shape = $4, .dtype = $5};
  }
| "'weight'" "a name" range shape optional_dtype {
    $$ = $3;
    $$.name = $2;
    $$.shape = $4;
    $$.dtype = $5;
  }

/* Layers that do not begin with 0; the first dimension is their end. */
range:
  '[' expr "'..'" expr ']'         { $$ = ast_range($2, @$); ADD($$.stack.dims) = $4; }
| '[' expr "'..'" expr ',' exprs ']' {
    $$ = ast_range($2, @$);
    ADD($$.stack.dims) = $4;
    for (int i = 0; i < $6.count; i++) ADD($$.stack.dims) = $6.items[i];
  }

number:
  "an integer"                     { $$ = ast_int(parser, $1, @$); }
| "a number"                       { $$ = ast_float(parser, $1, @$); }
| '-' number                       { $$ = ast_negate(parser, $2, @$); }

sources:
  source                           { $$ = (ast_sources){0}; ADD($$) = $1; }
| sources ',' source               { $$ = $1; ADD($$) = $3; }

source: "a string" transposed window paired plus {
    $$ = $3;
    $$.pattern = $1;
    $$.transposed = $2;
    $$.paired = $4;
    $$.plus = $5;
  }

transposed:
  %empty                           { $$ = false; }
| "'transposed'"                   { $$ = true; }

window:
  %empty                           { $$ = (ast_source){.run = NULL}; }
| "'rows'" expr "'of'" expr        { $$ = (ast_source){.run = $2, .step = $4}; }
| "'rows'" expr "'of'" expr "'at'" expr  { $$ = (ast_source){.run = $2, .step = $4, .first = $6}; }

paired:
  %empty                           { $$ = NULL; }
| "'paired'" expr                  { $$ = $2; }

plus:
  %empty                           { $$ = NULL; }
| "'plus'" expr                    { $$ = $2; }

function:
  "'fn'" "a name" '(' parameters ')' block {
    $$ = ast_function_new(parser, $2, $4, (ast_parameter){0}, $6, false, @6);
  }
| "'fn'" "a name" '(' parameters ')' "'->'" shape optional_dtype block {
    ast_parameter result = {.shape = $7, .dtype = $8};
    $$ = ast_function_new(parser, $2, $4, result, $9, false, @9);
  }
| "'fn'" error block               { $$ = NULL; yyerrok; }
| "'fn'" error ';'                 { $$ = NULL; yyerrok; }

graph:
  "'graph'" "a name" '(' parameters ')' "'->'" result block {
    $$ = ast_function_new(parser, $2, $4, $7, $8, true, @8);
  }
| "'graph'" error block            { $$ = NULL; yyerrok; }
| "'graph'" error ';'              { $$ = NULL; yyerrok; }

parameters:
  %empty                           { $$ = (ast_parameters){0}; }
| parameter_list                   { $$ = $1; }

parameter_list:
  parameter                        { $$ = (ast_parameters){0}; ADD($$) = $1; }
| parameter_list ',' parameter     { $$ = $1; ADD($$) = $3; }

parameter: "a name" optional_shape optional_dtype  { $$ = (ast_parameter){.name = $1, .shape = $2, .dtype = $3}; }

result: "a name" shape optional_dtype  { $$ = (ast_parameter){.name = $1, .shape = $2, .dtype = $3}; }

optional_shape:
  %empty                           { $$ = (ast_shape){.loc = @$}; }
| shape                            { $$ = $1; }

shape:
  '[' exprs ']'                    { $$ = (ast_shape){$2, @$, true}; }

optional_dtype:
  %empty                           { $$ = (ast_name){NULL, @$}; }
| ':' "a name"                     { $$ = $2; }

/* A block's place is its closing brace: where a missing `return` belongs. */
block:
  '{' statements '}'               { $$ = $2; @$ = @3; }
| '{' statements error '}'         { $$ = $2; @$ = @4; yyerrok; }

statements:
  %empty                           { $$ = (ast_statements){0}; }
| statements statement             { $$ = ast_then($1, $2); }

statement:
  "a name" '=' expr ';'            { $$ = ast_assign(parser, $1, $3, @$); }
| "'for'" "a name" "'in'" expr block  { $$ = ast_for(parser, $2, NULL, $4, $5, @1); }
| "'for'" "a name" "'in'" expr "'..'" expr block  { $$ = ast_for(parser, $2, $4, $6, $7, @1); }
| "'return'" expr ';'              { $$ = ast_return(parser, $2, @1); }
| expr ';'                         { $$ = ast_drop(parser, $1, @1); }
| "'for'" error block              { $$ = NULL; yyerrok; }
| error ';'                        { $$ = NULL; yyerrok; }

/* A setting's words are names here: statements.def says which there are. */
plan:
  "'plan'" "a name" "'for'" "a name" '{' settings '}' {
    $$ = ast_script_new(parser, $2, $4);
    $$->settings = $6;
  }
| "'plan'" "a name" "'for'" "a name" '{' settings error '}'  { $$ = NULL; yyerrok; }
| "'plan'" error '{' settings '}'    { $$ = NULL; yyerrok; }
| "'plan'" error '{' settings error '}'  { $$ = NULL; yyerrok; }

recipe:
  "'recipe'" "a name" "'for'" "a name" '{' settings '}' {
    $$ = ast_script_new(parser, $2, $4);
    $$->settings = $6;
  }
| "'recipe'" "a name" "'for'" "a name" '{' settings error '}'  { $$ = NULL; yyerrok; }
| "'recipe'" error '{' settings '}'  { $$ = NULL; yyerrok; }
| "'recipe'" error '{' settings error '}'  { $$ = NULL; yyerrok; }

settings:
  %empty                           { $$ = (ast_settings){0}; }
| settings setting                 { $$ = ast_with($1, $2); }
| settings error ';'               { $$ = $1; yyerrok; }

setting:
  setting_head ';'
| setting_head '{' settings '}'    { $$ = $1; $$->has_body = true; $$->body = $3; }
| setting_head '{' settings error '}'  { $$ = $1; $$->has_body = true; yyerrok; }

setting_head: "a name" items_of_setting  { $$ = ast_setting_new(parser, $1, $2, @$); }

items_of_setting:
  %empty                           { $$ = (ast_items){0}; }
| items_of_setting item            { $$ = $1; ADD($$) = $2; }

item:
  "a name"                         { $$ = (ast_item){.kind = AST_WORD, .loc = @$, .name = $1}; }
| "a pattern of names"             { $$ = (ast_item){.kind = AST_PATTERN, .loc = @$, .name = $1}; }
| "a string"                       { $$ = (ast_item){.kind = AST_STRING, .loc = @$, .name = $1}; }
| number                           { $$ = (ast_item){.kind = AST_VALUE, .loc = @$, .value = $1}; }
| '(' expr ')'                     { $$ = (ast_item){.kind = AST_VALUE, .loc = @$, .value = $2}; }
| ','                              { $$ = (ast_item){.kind = AST_COMMA, .loc = @$}; }

exprs:
  expr                             { $$ = (ast_exprs){0}; ADD($$) = $1; }
| exprs ',' expr                   { $$ = $1; ADD($$) = $3; }

expr:
  product
| expr '+' product                 { $$ = ast_binary(parser, '+', $1, $3, @$); }
| expr '-' product                 { $$ = ast_binary(parser, '-', $1, $3, @$); }

product:
  cast
| product '*' cast                 { $$ = ast_binary(parser, '*', $1, $3, @$); }
| product '/' cast                 { $$ = ast_binary(parser, '/', $1, $3, @$); }
| product '@' cast                 { $$ = ast_binary(parser, '@', $1, $3, @$); }

cast:
  unary
| cast "'as'" '[' exprs ']'        { $$ = ast_as(parser, $1, $4, @$); }

unary:
  postfix
| '-' unary                        { $$ = ast_negate(parser, $2, @$); }

postfix:
  primary
| postfix '[' expr ']'             { $$ = ast_index(parser, $1, $3, @$); }
| postfix '.' "a name"             { $$ = ast_field(parser, $1, $3, @$); }

primary:
  "an integer"                     { $$ = ast_int(parser, $1, @$); }
| "a number"                       { $$ = ast_float(parser, $1, @$); }
| "a name"                         { $$ = ast_reference(parser, $1); }
| "a name" '(' arguments ')'       { $$ = ast_call(parser, $1, $3, @$); }
| '(' expr ')'                     { $$ = $2; $$->loc = @$; }

arguments:
  %empty                           { $$ = (ast_arguments){0}; }
| argument_list                    { $$ = $1; }

argument_list:
  argument                         { $$ = (ast_arguments){0}; ADD($$) = $1; }
| argument_list ',' argument       { $$ = $1; ADD($$) = $3; }

argument:
  expr                             { $$ = (ast_argument){.value = $1}; }
| "a name" '=' expr                { $$ = (ast_argument){$1, $3}; }

%%

/* The one thing bison itself says is that its stack is full. */
static void dip_error(const dp_loc *loc, fe_parser *parser, void *scanner, const char *message) {
  (void)scanner, (void)message;
  dp_error(parser->diags, *loc, "parentheses or blocks are nested too deep here");
}

enum { MOST_EXPECTED = 40, MOST_NAMED = 6 };

static bool contains(const char *const *names, int count, const char *name) {
  for (int i = 0; i < count; i++)
    if (strcmp(names[i], name) == 0) return true;
  return false;
}

/* What may follow, as a person would say it: an expression counts as one thing, and where one may end, the operators
 * that could continue it are left out. Works in place, returns how many stay. */
static int as_phrases(const char **names, int count) {
  static const char *const starts[] = {"an integer", "a number", "a name", "'('", "'-'"};
  static const char *const continues[] = {"'+'", "'-'", "'*'", "'/'", "'@'", "'as'", "'['", "'.'", "'('"};
  bool expression = contains(names, count, "an integer"), ended = contains(names, count, "'+'");
  bool statement = expression && contains(names, count, "'return'");
  int n = 0;
  if (expression && !statement) names[n++] = "an expression"; /* in the place of the first of `starts` */
  for (int i = n; i < count; i++) {
    if ((expression && !statement && contains(starts, DP_COUNT(starts), names[i])) ||
        (statement && i && contains(starts + 3, 2, names[i])) ||
        (ended && contains(continues, DP_COUNT(continues), names[i])))
      continue;
    names[n++] = names[i];
  }
  return n;
}

/* A slip in a keyword, perhaps; where declarations begin, the parser goes on as if it had been written right. */
static void unexpected_word(fe_parser *parser, dp_loc loc, const char *word, const char *const *names, int count,
                            const char *expected) {
  const char *keywords[MOST_EXPECTED];
  int keyword_count = 0;
  for (int i = 0; i < count; i++)
    if (names[i][0] == '\'' && names[i][2] != '\'')
      keywords[keyword_count++] = dp_arena_strndup(parser->arena, names[i] + 1, strlen(names[i]) - 2);
  const char *near = dp_nearest_name(word, keywords, keyword_count);
  if (near) {
    dp_error(parser->diags, loc, "unexpected '%s'; did you mean '%s'?", word, near);
    if (!contains(names, count, "'fn'")) return;
    parser->last->kind = fe_keyword(near);
    fe_declares(parser, parser->last->kind);
    parser->last->repair = END_FIRST;
  } else if (contains(names, count, "'dim'") && (strcmp(word, "plan") == 0 || strcmp(word, "recipe") == 0)) {
    dp_error(parser->diags, loc, "a %s stands beside the model that it is for, not in one", word);
    parser->stopped = true;
  } else if (strcmp(word, "extends") == 0) {
    dp_error(parser->diags, loc, "'%s' is not part of the language yet", word);
    parser->stopped = true;
  } else {
    dp_error(parser->diags, loc, "unexpected '%s'%s", word, expected);
  }
}

static int yyreport_syntax_error(const yypcontext_t *context, fe_parser *parser, void *scanner) {
  (void)scanner;
  if (ast_stopped(parser)) return 0;
  yysymbol_kind_t kinds[MOST_EXPECTED];
  const char *names[MOST_EXPECTED + 1];
  int count = yypcontext_expected_tokens(context, kinds, MOST_EXPECTED);
  if (count < 0) count = 0;
  for (int i = 0; i < count; i++) names[i] = yysymbol_name(kinds[i]);
  dp_loc loc = *yypcontext_location(context);
  const char *at = parser->text + loc.begin;
  int length = loc.end - loc.begin > 40 ? 40 : (int)(loc.end - loc.begin);
  bool semicolon = contains(names, count, "';'");
  count = as_phrases(names, count);

  /* A forgotten ';' belongs behind the line that lacks it, not at the next one. */
  uint32_t end = parser->previous.end;
  if (semicolon && end && (*at == '}' || memchr(parser->text + end, '\n', loc.begin - end))) {
    dp_error(parser->diags, (dp_loc){loc.file, end, end}, "expected ';' here");
    if (*at != '}') parser->last->repair = END_FIRST; /* a '}' ends what went wrong by itself */
    return 0;
  }
  dp_str expected = {0};
  for (int i = 0; i < count && count <= MOST_NAMED; i++)
    dp_str_addf(&expected, "%s%s", i == 0 ? "; expected " : i + 1 < count ? ", " : " or ", names[i]);
  const char *text = expected.text ? expected.text : "";
  if (yypcontext_token(context) == YYSYMBOL_YYEOF) {
    dp_error(parser->diags, loc, "the file ends too early%s", text);
  } else if (yypcontext_token(context) == YYSYMBOL_NAME) {
    unexpected_word(parser, loc, dp_arena_strndup(parser->arena, at, (size_t)length), names, count, text);
  } else {
    const char *quote = *at == '"' ? "" : "'";
    dp_error(parser->diags, loc, "unexpected %s%.*s%s%s", quote, length, at, quote, text);
  }
  dp_str_free(&expected);
  return 0;
}
