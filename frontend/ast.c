/* frontend/ast.c: the constructors behind the parser's actions. The one rule they hold: a tree's depth is known as it
 * grows, and one that is too deep to walk is refused here. */
#include "frontend/ast.h"

static int deeper(const ast_expr *a, const ast_expr *b) {
  int left = a ? a->depth : 0, right = b ? b->depth : 0;
  return (left > right ? left : right) + 1;
}

static ast_expr *node(fe_parser *parser, ast_expr_kind kind, int depth, dp_loc loc) {
  ast_expr *expr = DP_NEW(parser->arena, ast_expr);
  if (depth > AST_MAX_DEPTH) {
    dp_error(parser->diags, loc, "this expression is nested more than %d levels deep; give parts of it names",
             AST_MAX_DEPTH);
    kind = AST_ERROR;
    depth = 1;
  }
  expr->kind = kind;
  expr->depth = depth;
  expr->loc = loc;
  return expr;
}

ast_expr *ast_leaf(fe_parser *parser, ast_expr_kind kind, dp_loc loc) { return node(parser, kind, 1, loc); }

ast_expr *ast_int(fe_parser *parser, int64_t value, dp_loc loc) {
  ast_expr *expr = ast_leaf(parser, AST_INT, loc);
  expr->integer = value;
  return expr;
}

ast_expr *ast_float(fe_parser *parser, double value, dp_loc loc) {
  ast_expr *expr = ast_leaf(parser, AST_FLOAT, loc);
  expr->number = value;
  return expr;
}

ast_expr *ast_reference(fe_parser *parser, ast_name name) {
  ast_expr *expr = ast_leaf(parser, AST_NAME, name.loc);
  expr->name = name;
  return expr;
}

ast_expr *ast_negate(fe_parser *parser, ast_expr *operand, dp_loc loc) {
  ast_expr *expr = node(parser, AST_NEGATE, deeper(operand, NULL), loc);
  expr->left = operand;
  return expr;
}

ast_expr *ast_binary(fe_parser *parser, char op, ast_expr *left, ast_expr *right, dp_loc loc) {
  ast_expr *expr = node(parser, AST_BINARY, deeper(left, right), loc);
  expr->op = op;
  expr->left = left;
  expr->right = right;
  return expr;
}

ast_expr *ast_index(fe_parser *parser, ast_expr *base, ast_expr *index, dp_loc loc) {
  ast_expr *expr = node(parser, AST_INDEX, deeper(base, index), loc);
  expr->left = base;
  expr->right = index;
  return expr;
}

ast_expr *ast_field(fe_parser *parser, ast_expr *base, ast_name name, dp_loc loc) {
  ast_expr *expr = node(parser, AST_FIELD, deeper(base, NULL), loc);
  expr->left = base;
  expr->name = name;
  return expr;
}

ast_expr *ast_call(fe_parser *parser, ast_name name, ast_arguments arguments, dp_loc loc) {
  int depth = 1;
  for (int i = 0; i < arguments.count; i++)
    if (arguments.items[i].value->depth >= depth) depth = arguments.items[i].value->depth + 1;
  ast_expr *expr = node(parser, AST_CALL, depth, loc);
  expr->name = name;
  expr->arguments = arguments;
  return expr;
}

ast_expr *ast_as(fe_parser *parser, ast_expr *operand, ast_exprs shape, dp_loc loc) {
  int depth = operand->depth + 1;
  for (int i = 0; i < shape.count; i++)
    if (shape.items[i]->depth >= depth) depth = shape.items[i]->depth + 1;
  ast_expr *expr = node(parser, AST_AS, depth, loc);
  expr->left = operand;
  expr->shape = shape;
  return expr;
}

static ast_statement *statement(fe_parser *parser, ast_statement_kind kind, ast_expr *value, dp_loc loc) {
  ast_statement *result = DP_NEW(parser->arena, ast_statement);
  result->kind = kind;
  result->value = value;
  result->loc = loc;
  return result;
}

ast_statement *ast_assign(fe_parser *parser, ast_name name, ast_expr *value, dp_loc loc) {
  ast_statement *result = statement(parser, AST_ASSIGN, value, loc);
  result->name = name;
  return result;
}

ast_statement *ast_for(fe_parser *parser, ast_name name, ast_expr *first, ast_expr *end, ast_statements body,
                       dp_loc loc) {
  if (body.depth >= AST_MAX_DEPTH / 4) {
    dp_error(parser->diags, loc, "loops are nested more than %d levels deep", AST_MAX_DEPTH / 4);
    body = (ast_statements){0};
  }
  ast_statement *result = statement(parser, AST_FOR, end, loc);
  result->name = name;
  result->first = first;
  result->body = body;
  return result;
}

ast_statement *ast_return(fe_parser *parser, ast_expr *value, dp_loc loc) {
  return statement(parser, AST_RETURN, value, loc);
}

ast_statement *ast_drop(fe_parser *parser, ast_expr *value, dp_loc loc) {
  return statement(parser, AST_DROP, value, loc);
}

ast_statements ast_then(ast_statements statements, ast_statement *next) {
  if (!next) return statements;
  *(statements.last ? &statements.last->next : &statements.first) = next;
  statements.last = next;
  if (next->kind == AST_FOR && next->body.depth >= statements.depth) statements.depth = next->body.depth + 1;
  return statements;
}

ast_function *ast_function_new(fe_parser *parser, ast_name name, ast_parameters parameters, ast_parameter result,
                               ast_statements body, bool is_graph, dp_loc end) {
  ast_function *function = DP_NEW(parser->arena, ast_function);
  *function = (ast_function){.name = name, .parameters = parameters, .result = result, .body = body,
                             .is_graph = is_graph, .end = end};
  return function;
}

void ast_add_function(ast_functions *functions, ast_function *function) {
  *(functions->last ? &functions->last->next : &functions->first) = function;
  functions->last = function;
}

void ast_add_constants(fe_parser *parser, ast_model *model, ast_definitions definitions, bool is_dim) {
  for (int i = 0; i < definitions.count; i++) {
    ast_constant *constant = DP_NEW(parser->arena, ast_constant);
    constant->definition = definitions.items[i];
    constant->is_dim = is_dim;
    *(model->last_constant ? &model->last_constant->next : &model->constants) = constant;
    model->last_constant = constant;
  }
}

ast_weight ast_range(ast_expr *first, dp_loc loc) {
  return (ast_weight){.first = first, .stack = {.loc = loc, .given = true}};
}

void ast_add_weight(fe_parser *parser, ast_model *model, ast_weight weight) {
  ast_weight *copy = DP_NEW(parser->arena, ast_weight);
  *copy = weight;
  *(model->last_weight ? &model->last_weight->next : &model->weights) = copy;
  model->last_weight = copy;
}

void ast_add_model(ast_models *models, ast_model *model) {
  *(models->last ? &models->last->next : &models->first) = model;
  models->last = model;
}

void ast_add_script(ast_scripts *scripts, ast_script *script) {
  *(scripts->last ? &scripts->last->next : &scripts->first) = script;
  scripts->last = script;
}

ast_script *ast_script_new(fe_parser *parser, ast_name name, ast_name model) {
  ast_script *script = DP_NEW(parser->arena, ast_script);
  *script = (ast_script){.name = name, .model = model};
  return script;
}

ast_setting *ast_setting_new(fe_parser *parser, ast_name word, ast_items items, dp_loc loc) {
  ast_setting *setting = DP_NEW(parser->arena, ast_setting);
  *setting = (ast_setting){.word = word, .items = items, .loc = loc};
  return setting;
}

ast_settings ast_with(ast_settings settings, ast_setting *setting) {
  *(settings.last ? &settings.last->next : &settings.first) = setting;
  settings.last = setting;
  return settings;
}

void ast_add_key(fe_parser *parser, ast_definitions *definitions, ast_name key, bool first) {
  ast_definition *last = &definitions->items[definitions->count - 1];
  if (first && last->keys.count)
    dp_error(parser->diags, key.loc, "more metadata keys follow behind a ',', without another 'from'");
  if (!first && !last->keys.count)
    dp_error(parser->diags, key.loc, "a metadata key stands behind 'from': %s = ... from \"%s\"", last->name.text,
             key.text);
  DP_PUSH(parser->arena, last->keys.items, last->keys.count, last->keys.cap) = key;
}
