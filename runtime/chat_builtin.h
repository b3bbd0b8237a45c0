/* runtime/chat_builtin.h: what the builtins of the chat template's interpreter share: the shape of one, its arguments,
 * and the work on text that filters and methods both do. */
#ifndef DIPPER_CHAT_BUILTIN_H
#define DIPPER_CHAT_BUILTIN_H

#include "runtime/chat_parts.h"

#define BUILTIN(name)                                                                                                  \
  static chat_value name(chat_run *run, const chat_value *self, const chat_value *bound, const chat_args *args)
#define UNUSED (void)run, (void)self, (void)bound, (void)args

chat_value chat_bad_argument(chat_run *run, const char *what, const chat_value *value); /* fails */
/* An argument that is a string; `otherwise` when it was not given, which is a failure when that is NULL. */
chat_text chat_text_argument(chat_run *run, const chat_value *value, const char *otherwise);
int64_t chat_int_argument(chat_run *run, const chat_value *value, int64_t otherwise);
const chat_builtin *chat_find_builtin(const chat_builtin *table, size_t count, chat_text name); /* NULL: not there */

typedef enum chat_case { CHAT_UPPER, CHAT_LOWER, CHAT_TITLE, CHAT_CAPITALIZE } chat_case;

bool chat_is_space(uint32_t c); /* what str.strip() takes for white space */
chat_value chat_strip(chat_run *run, chat_text text, const chat_value *chars, bool left, bool right);
chat_value chat_change_case(chat_run *run, chat_text text, chat_case to, const char *name);
size_t chat_find_text(chat_text text, chat_text part, size_t from); /* SIZE_MAX: not there */
int64_t chat_count_characters(chat_run *run, chat_text text, size_t end);
chat_value chat_replace(chat_run *run, chat_text text, chat_text old, chat_text new, int64_t limit);
chat_value chat_split(chat_run *run, const chat_value *self, const chat_value *bound, bool from_right);
chat_value chat_split_lines(chat_run *run, chat_text text, bool keep_ends);
bool chat_has_affix(chat_text text, chat_text affix, bool at_end);
chat_value chat_test_affix(chat_run *run, const chat_value *self, const chat_value *affix, bool at_end);
chat_value chat_join(chat_run *run, const chat_value *items, chat_text by, const chat_value *attribute);
chat_value chat_dict_items(chat_run *run, const chat_dict *dict); /* a list of (key, value) */

#endif
