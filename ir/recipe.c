/* ir/recipe.c: names of what recipes can be. */
#include "ir/recipe.h"

const char *ir_objective_name(ir_objective objective) {
  static const char *const names[] = {"pretrain", "sft", "dpo", "reward", "value"};
  return (unsigned)objective < IR_OBJECTIVE_COUNT ? names[objective] : "";
}
