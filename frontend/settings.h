/* frontend/settings.h: private to frontend/: how the statements of plans and recipes are read. To the grammar each is a
 * word and items behind it; statements.def says which there are and which function reads one, through the fe_take_
 * functions below. Each takes the next item or reports what is wrong with it, after which the rest of the statement is
 * passed over in silence: a reader need not look at what they return. */
#ifndef DIPPER_FRONTEND_SETTINGS_H
#define DIPPER_FRONTEND_SETTINGS_H

#include "frontend/sema.h"

typedef enum fe_block { FE_IN_plan, FE_IN_recipe, FE_IN_objective, FE_IN_optimizer } fe_block;

/* What is done with a weight, and where the plan says so. */
typedef struct fe_fate {
  enum { FE_UNSAID, FE_FROZEN, FE_TRAINED, FE_ADAPTED } kind;
  int rank;
  double alpha;
  dp_loc loc;
} fe_fate;

/* A weight that a list names, by its index in the module. */
typedef struct fe_named {
  int weight;
  dp_loc loc;
} fe_named;

enum { FE_MOST_TRIED = 12 };

/* One statement while it is read. */
typedef struct fe_reader {
  fe_compiler *c;
  const ast_settings *siblings; /* it and those beside it */
  const ast_setting *setting;
  const char *form;
  int at;       /* the next item */
  bool broken;  /* a mistake in it was reported */
  bool entered; /* what stands between its braces was read */
  const char *tried[FE_MOST_TRIED]; /* words that could have stood at `at` */
  int tried_count;
  fe_named *named; /* [weight_count] the last list of weights */
  int named_count;
  /* what is being filled */
  ir_plan *plan;
  fe_fate *fates; /* [weight_count] */
  ir_recipe *recipe;
} fe_reader;

#define STATEMENT(block, word, reader, times, form) void fe_read_##reader(fe_reader *r);
#include "frontend/statements.def"
#undef STATEMENT

/* Reads the statements of a block by the table. */
void fe_read_settings(const fe_reader *outer, fe_block block, const ast_settings *settings);
/* Reads what stands between the braces of this statement. */
void fe_enter(fe_reader *r, fe_block block);
const ast_setting *fe_find_setting(const ast_settings *settings, const char *word); /* the first, or NULL */

bool fe_take_word(fe_reader *r, const char *word); /* if it comes next */
bool fe_take_comma(fe_reader *r);                  /* likewise */
void fe_want_word(fe_reader *r, const char *word);
bool fe_take_choice(fe_reader *r, const char *const *words, int count, int *choice); /* if one of them comes next */
void fe_want_choice(fe_reader *r, const char *what, const char *const *words, int count, int *choice);
void fe_want_string(fe_reader *r, const char *what, ast_name *string);
/* Numbers: literals, dims and consts of the model, and arithmetic with them in parentheses. */
void fe_want_integer(fe_reader *r, const char *what, int64_t least, int64_t most, int64_t *value);
typedef enum fe_range { FE_ANY_FROM_0, FE_ABOVE_0, FE_FROM_0_BELOW_1 } fe_range;
void fe_want_number(fe_reader *r, const char *what, fe_range range, double *value);
/* Names and patterns of weights, separated by commas, to `named`, each weight once. Only matrices: a pattern passes over
 * the rest, and to name one of them is a mistake. */
void fe_want_weights(fe_reader *r, bool only_matrices);

/* A mistake in the statement, at its next item or behind it. */
void fe_expected(fe_reader *r, const char *what);
void fe_mistake(fe_reader *r, dp_loc loc, const char *fmt, ...) DP_PRINTF(3, 4);

#endif
