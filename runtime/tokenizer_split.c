/* runtime/tokenizer_split.c: text into words, by PCRE2's JIT.
 *
 * The patterns are written for Oniguruma with Unicode 16; PCRE2 knows other escapes, another \s and perhaps an older
 * Unicode. So each pattern is translated: \s, \d, \w and \p{..} become classes that name what PCRE2 may not know, and
 * what would mean something else there is refused. The text never changes, only where it is cut. */
#include "runtime/tokenizer_split.h"

#include "runtime/unicode.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { MAX_STAGES = 16, MAX_PATTERN = 1 << 16 };

typedef struct split_stage {
  pcre2_code *regex; /* owned; NULL: the stage prefixes a space */
  dp_split_behavior behavior;
  bool invert;
  bool is_digit, is_gpt2; /* the pattern is dp_pattern_digit, dp_pattern_gpt2, isolated: the two fuse into one */
} split_stage;

struct dp_splitter {
  split_stage stages[MAX_STAGES];
  int stage_count;
};

typedef struct cut {
  size_t begin, end;
  bool is_match;
} cut;

struct dp_split_work {
  pcre2_match_data *match[MAX_STAGES];
  dp_str prefixed[MAX_STAGES];
  cut *cuts[MAX_STAGES];
  size_t cut_capacity[MAX_STAGES];
};

/* ---- the known patterns ----------------------------------------------------------------------------------------- */

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define NEWLINES_AND_SPACES "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3(digits)                                                                                                 \
  CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" NEWLINES_AND_SPACES
#define CASED(contractions, digits)                                                                                    \
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" contractions             \
  "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" contractions "|" digits \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" NEWLINES_AND_SPACES

const char dp_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/* What the reference's Digits calls a digit is a newer Unicode's idea than its \p{N}. */
#define DIGIT "\\p{N}\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}"
const char dp_pattern_digit[] = "[" DIGIT "]";
const char dp_pattern_digits[] = "[" DIGIT "]+";
/* dp_pattern_digit, then dp_pattern_gpt2, in one: a digit ends a piece, so white space before one may be taken whole.
 */
static const char pattern_digit_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+|[" DIGIT "]| ?[^\\s\\p{L}" DIGIT "]+|\\s+(?![^\\s" DIGIT "])|\\s+";

typedef struct known_pre {
  const char *names; /* between spaces; the first is the main one */
  const char *patterns[4];
  dp_pre_traits traits;
} known_pre;

/* Where two names differ in the reference only in what is not about splitting, they share a row. */
static const known_pre known_pres[] = {
    {" smollm starcoder refact command-r codeshell ", {pattern_digit_gpt2}, {false, false}},
    {" gpt-2 gpt2 phi-2 olmo mpt jais ", {dp_pattern_gpt2}, {false, false}},
    {" llama-bpe llama3 llama-v3 falcon3 pixtral ", {LLAMA3("\\p{N}{1,3}")}, {false, true}},
    {" dbrx smaug-bpe ", {LLAMA3("\\p{N}{1,3}")}, {false, false}},
    {" qwen2 ", {LLAMA3("\\p{N}")}, {true, false}},
    {" deepseek-r1-qwen ", {LLAMA3("\\p{N}")}, {false, false}},
    {" gpt-4o llama4 ", {CASED(CONTRACTIONS "?", "\\p{N}{1,3}")}, {false, false}},
    {" tekken ", {CASED("", "\\p{N}")}, {false, true}},
    {" falcon ", {"[\\p{P}$+<=>^~|`]+", dp_pattern_gpt2, dp_pattern_digits, "[0-9][0-9][0-9]"}, {false, false}},
    {" default ", {"[\\p{P}$+<=>^~|]+", dp_pattern_gpt2, dp_pattern_digits, "[0-9][0-9][0-9]"}, {false, false}},
};

dp_status dp_splitter_add_pre(dp_splitter *splitter, const char *pre, dp_pre_traits *traits) {
  dp_str known = {0};
  for (size_t row = 0; row < DP_COUNT(known_pres); row++) {
    const char *at = strchr(pre, ' ') ? NULL : strstr(known_pres[row].names, pre);
    size_t n = strlen(pre);
    while (n && at && !(at[-1] == ' ' && at[n] == ' ')) at = strstr(at + 1, pre);
    dp_str_add(&known, known_pres[row].names);
    if (!n || !at) continue;
    *traits = known_pres[row].traits;
    dp_str_free(&known);
    for (size_t i = 0; i < DP_COUNT(known_pres[row].patterns) && known_pres[row].patterns[i]; i++) {
      const char *pattern = known_pres[row].patterns[i];
      DP_TRY(dp_splitter_add_regex(splitter, pattern, strlen(pattern), DP_SPLIT_ISOLATED, false));
    }
    return DP_SUCCESS;
  }
  dp_status status = dp_fail(DP_UNSUPPORTED, "pre-tokenizer '%.64s' is not known; the known ones are:%s", pre,
                             known.text ? known.text : "");
  dp_str_free(&known);
  return status;
}

/* ---- Oniguruma's syntax into PCRE2's ---------------------------------------------------------------------------- */

typedef struct translator {
  const char *pattern;
  size_t n, at;
  dp_str *out;
} translator;

static dp_status refuse(const translator *t, const char *what) {
  return dp_fail(DP_UNSUPPORTED, "split pattern '%.*s', byte %zu: %s", (int)(t->n > 200 ? 200 : t->n), t->pattern,
                 t->at, what);
}

static void add_newer(dp_str *out, const char *category) {
  for (int i = 0; i < dp_newer_characters_count; i++) {
    const dp_category_range *range = &dp_newer_characters[i];
    if (strncmp(range->category, category, strlen(category)) == 0)
      dp_str_addf(out, "\\x{%x}-\\x{%x}", (unsigned)range->first, (unsigned)range->last);
  }
}

static void add_newer_words(dp_str *out) {
  static const char *const categories[] = {"L", "M", "Nd", "Pc"};
  for (size_t i = 0; i < DP_COUNT(categories); i++) add_newer(out, categories[i]);
}

dp_status dp_compile_word_class(void **out) {
  dp_str class = {0};
  dp_str_add(&class, "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}");
  add_newer_words(&class);
  dp_str_addc(&class, ']');
  int error;
  PCRE2_SIZE offset;
  *out = class.failed ? NULL
                      : pcre2_compile((PCRE2_SPTR) class.text, class.length, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED,
                                      &error, &offset, NULL);
  dp_str_free(&class);
  return *out ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for the class of word characters");
}

/* What goes between the brackets for \s, \d, \w, as Oniguruma has them. White space is Unicode's property: PCRE2 would
 * add U+180E. Word characters include those of Latin-1's superscripts and fractions, and of no others. */
static void add_class_escape(dp_str *out, char letter) {
  if (letter == 's') {
    dp_str_add(out, "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"
                    "\\x{3000}");
  } else if (letter == 'd') {
    dp_str_add(out, "\\p{Nd}");
    add_newer(out, "Nd");
  } else {
    dp_str_add(out, "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}");
    add_newer_words(out);
  }
}

static dp_status translate_property(translator *t, bool in_class) {
  bool negated = t->pattern[t->at] == 'P';
  size_t begin = t->at + 1;
  if (begin >= t->n || t->pattern[begin] != '{') return refuse(t, "\\p needs a name in braces");
  begin++;
  if (begin < t->n && t->pattern[begin] == '^') {
    negated = !negated;
    begin++;
  }
  const char *close = memchr(t->pattern + begin, '}', t->n - begin);
  size_t n = close ? (size_t)(close - t->pattern) - begin : 0;
  char name[32];
  if (n == 0 || n >= sizeof name) return refuse(t, "\\p needs a name in braces");
  memcpy(name, t->pattern + begin, n);
  name[n] = 0;
  t->at = begin + n + 1;
  bool is_category = n <= 2 && strchr("LMNPSZC", name[0]);
  if (in_class) {
    dp_str_addf(t->out, "\\%c{%s}", negated ? 'P' : 'p', name);
    if (is_category && !negated) add_newer(t->out, name);
  } else {
    dp_str_addf(t->out, "[%s\\p{%s}", negated ? "^" : "", name);
    if (is_category) add_newer(t->out, name);
    dp_str_addc(t->out, ']');
  }
  return DP_SUCCESS;
}

/* At the character after the backslash. */
static dp_status translate_escape(translator *t, bool in_class) {
  if (t->at >= t->n) return refuse(t, "a backslash at the end");
  char c = t->pattern[t->at];
  if (c == 'p' || c == 'P') return translate_property(t, in_class);
  if (strchr("sdwSDW", c) && c) {
    bool negated = c < 'a';
    char letter = (char)(c | 0x20);
    t->at++;
    if (!in_class) {
      dp_str_add(t->out, negated ? "[^" : "[");
      add_class_escape(t->out, letter);
      dp_str_addc(t->out, ']');
    } else if (!negated) {
      add_class_escape(t->out, letter);
    } else if (letter == 's') {
      dp_str_add(t->out, "\\S\\x{180e}");
    } else {
      return refuse(t, "\\D and \\W in a class are not handled");
    }
    return DP_SUCCESS;
  }
  if (c == 'u') {
    if (t->n - t->at < 5) return refuse(t, "\\u needs four hexadecimal digits");
    dp_str_addf(t->out, "\\x{%.4s}", t->pattern + t->at + 1);
    t->at += 5;
    return DP_SUCCESS;
  }
  if (c == 'v') {
    dp_str_add(t->out, "\\x{b}");
    t->at++;
    return DP_SUCCESS;
  }
  bool is_letter_or_digit = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
  if (is_letter_or_digit && !strchr(in_class ? "rntfaex" : "rntfaexAzZ", c))
    return refuse(t, "this escape is not handled");
  dp_str_addc(t->out, '\\');
  dp_str_addc(t->out, c);
  t->at++;
  return DP_SUCCESS;
}

static dp_status translate_class(translator *t) {
  dp_str_addc(t->out, '[');
  t->at++;
  if (t->at < t->n && t->pattern[t->at] == '^') {
    dp_str_addc(t->out, '^');
    t->at++;
  }
  for (bool first = true;; first = false) {
    if (t->at >= t->n) return refuse(t, "a class that is not closed");
    char c = t->pattern[t->at];
    if (c == ']' && !first) break;
    if (c == ']' || c == '[') return refuse(t, "a bracket in a class is not handled");
    if (c == '&' && t->at + 1 < t->n && t->pattern[t->at + 1] == '&')
      return refuse(t, "the intersection of classes is not handled");
    t->at++;
    if (c == '\\')
      DP_TRY(translate_escape(t, true));
    else
      dp_str_addc(t->out, c);
  }
  dp_str_addc(t->out, ']');
  t->at++;
  return DP_SUCCESS;
}

/* At "(?": groups and looking around are the same in both; of the options only i is. */
static dp_status check_group(const translator *t) {
  size_t at = t->at + 2;
  const char *letter = t->pattern + at;
  if (at >= t->n) return refuse(t, "a group that is not closed");
  if (strchr(":=!>", *letter) && *letter) return DP_SUCCESS;
  if (*letter == '<' && at + 1 < t->n && (letter[1] == '=' || letter[1] == '!')) return DP_SUCCESS;
  if ((*letter == 'i' || *letter == '-') && at + 1 < t->n && strchr(":)i", letter[1]) && letter[1]) return DP_SUCCESS;
  return refuse(t, "this kind of group is not handled");
}

static dp_status translate(const char *pattern, size_t n, dp_str *out) {
  translator t = {pattern, n, 0, out};
  bool after_interval = false;
  while (t.at < n) {
    char c = pattern[t.at];
    if (c == '+' && after_interval) return refuse(&t, "'+' after an interval is not handled");
    after_interval = c == '}';
    if (c == '\\') {
      t.at++;
      DP_TRY(translate_escape(&t, false));
      after_interval = false;
    } else if (c == '[') {
      DP_TRY(translate_class(&t));
    } else {
      if (c == '(' && t.at + 1 < n && pattern[t.at + 1] == '?') DP_TRY(check_group(&t));
      if (c == '(' && t.at + 1 < n && pattern[t.at + 1] == '*') return refuse(&t, "'(*' is not handled");
      if (c == '{' && t.at + 1 < n && pattern[t.at + 1] == ',') return refuse(&t, "'{,' is not handled");
      dp_str_addc(out, c);
      t.at++;
    }
  }
  return out->failed ? dp_fail(DP_NO_MEMORY, "no memory for a split pattern") : DP_SUCCESS;
}

/* ---- building --------------------------------------------------------------------------------------------------- */

dp_splitter *dp_splitter_new(void) { return calloc(1, sizeof(dp_splitter)); }

void dp_splitter_free(dp_splitter *splitter) {
  if (!splitter) return;
  for (int i = 0; i < splitter->stage_count; i++) pcre2_code_free(splitter->stages[i].regex);
  free(splitter);
}

static dp_status add_stage(dp_splitter *splitter, split_stage stage) {
  if (splitter->stage_count == MAX_STAGES) {
    pcre2_code_free(stage.regex);
    return dp_fail(DP_UNSUPPORTED, "more than %d splitting stages", MAX_STAGES);
  }
  splitter->stages[splitter->stage_count++] = stage;
  return DP_SUCCESS;
}

/* Multi-line anchors and a dot that stops at a newline: Oniguruma's Ruby syntax. */
static dp_status compile(const dp_str *translated, const char *pattern, size_t n, pcre2_code **out) {
  pcre2_compile_context *context = pcre2_compile_context_create(NULL);
  if (!context) return dp_fail(DP_NO_MEMORY, "no memory for a split pattern");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error;
  PCRE2_SIZE offset;
  *out = pcre2_compile((PCRE2_SPTR)(translated->text ? translated->text : ""), translated->length,
                       PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (!*out) {
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(error, message, sizeof message);
    return dp_fail(DP_INVALID, "split pattern '%.*s': %s", (int)(n > 200 ? 200 : n), pattern, (const char *)message);
  }
  pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* where there is no JIT, matching is slower, and the same */
  return DP_SUCCESS;
}

static dp_status compile_onig(const char *pattern, size_t n, pcre2_code **out) {
  if (n > MAX_PATTERN) return dp_fail(DP_INVALID, "a split pattern of %zu bytes", n);
  dp_str translated = {0};
  dp_status status = translate(pattern, n, &translated);
  if (status.code == DP_OK) status = compile(&translated, pattern, n, out);
  dp_str_free(&translated);
  return status;
}

static bool is_pattern(const char *pattern, size_t n, const char *known) {
  return n == strlen(known) && memcmp(pattern, known, n) == 0;
}

dp_status dp_splitter_add_regex(dp_splitter *splitter, const char *pattern, size_t n, dp_split_behavior behavior,
                                bool invert) {
  split_stage stage = {.behavior = behavior, .invert = invert};
  bool plain = behavior == DP_SPLIT_ISOLATED && !invert;
  stage.is_digit = plain && is_pattern(pattern, n, dp_pattern_digit);
  stage.is_gpt2 = plain && is_pattern(pattern, n, dp_pattern_gpt2);
  split_stage *last = splitter->stage_count ? &splitter->stages[splitter->stage_count - 1] : NULL;
  if (stage.is_gpt2 && last && last->is_digit) {
    pcre2_code *fused;
    DP_TRY(compile_onig(pattern_digit_gpt2, strlen(pattern_digit_gpt2), &fused));
    pcre2_code_free(last->regex);
    *last = (split_stage){.regex = fused};
    return DP_SUCCESS;
  }
  DP_TRY(compile_onig(pattern, n, &stage.regex));
  return add_stage(splitter, stage);
}

dp_status dp_splitter_add_literal(dp_splitter *splitter, const char *text, size_t n, dp_split_behavior behavior,
                                  bool invert) {
  if (n > MAX_PATTERN) return dp_fail(DP_INVALID, "a split pattern of %zu bytes", n);
  split_stage stage = {.behavior = behavior, .invert = invert};
  dp_str escaped = {0};
  for (size_t i = 0; i < n; i++) {
    if (text[i] && strchr("\\^$.[]|()?*+{}-", text[i])) dp_str_addc(&escaped, '\\');
    dp_str_addc(&escaped, text[i]);
  }
  dp_status status = escaped.failed ? dp_fail(DP_NO_MEMORY, "no memory for a split pattern") : DP_SUCCESS;
  if (status.code == DP_OK) status = compile(&escaped, text, n, &stage.regex);
  dp_str_free(&escaped);
  DP_TRY(status);
  return add_stage(splitter, stage);
}

dp_status dp_splitter_add_space_prefix(dp_splitter *splitter) { return add_stage(splitter, (split_stage){0}); }

/* ---- running ---------------------------------------------------------------------------------------------------- */

void dp_split_work_free(dp_split_work *work) {
  if (!work) return;
  for (int i = 0; i < MAX_STAGES; i++) {
    pcre2_match_data_free(work->match[i]);
    dp_str_free(&work->prefixed[i]);
    free(work->cuts[i]);
  }
  free(work);
}

typedef struct splitting {
  const dp_splitter *splitter;
  dp_split_work *work;
  dp_word_fn *word;
  void *context;
} splitting;

static dp_status run_stage(const splitting *s, int index, const char *text, size_t n);

/* The next match at or after `from`, or *found = false. */
static dp_status next_match(const splitting *s, int index, const char *text, size_t n, size_t from, bool *found,
                            size_t *begin, size_t *end) {
  const split_stage *stage = &s->splitter->stages[index];
  pcre2_match_data *match = s->work->match[index];
  if (!match) {
    match = s->work->match[index] = pcre2_match_data_create(1, NULL);
    if (!match) return dp_fail(DP_NO_MEMORY, "no memory to split a text");
  }
  int found_groups = pcre2_match(stage->regex, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, match, NULL);
  if (found_groups == PCRE2_ERROR_JIT_STACKLIMIT)
    found_groups = pcre2_match(stage->regex, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, NULL);
  *found = found_groups >= 0;
  if (found_groups >= 0) {
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(match);
    *begin = ends[0];
    *end = ends[1];
    return DP_SUCCESS;
  }
  if (found_groups == PCRE2_ERROR_NOMATCH) return DP_SUCCESS;
  PCRE2_UCHAR message[128];
  pcre2_get_error_message(found_groups, message, sizeof message);
  return dp_fail(DP_INVALID, "splitting into words failed at byte %zu: %s", from, (const char *)message);
}

/* After an empty match the search goes on one character further. */
static size_t step_over(const char *text, size_t n, size_t at) {
  uint32_t c;
  int step = at < n ? dp_utf8_step(text + at, n - at, &c) : 1;
  return at + (size_t)(step > 0 ? step : 1);
}

static dp_status run_isolated(const splitting *s, int index, const char *text, size_t n) {
  bool drop_matches = s->splitter->stages[index].behavior == DP_SPLIT_REMOVED && !s->splitter->stages[index].invert;
  bool drop_rest = s->splitter->stages[index].behavior == DP_SPLIT_REMOVED && s->splitter->stages[index].invert;
  size_t done = 0;
  for (size_t from = 0; from <= n;) {
    bool found = false;
    size_t begin = 0, end = 0;
    DP_TRY(next_match(s, index, text, n, from, &found, &begin, &end));
    if (!found) break;
    if (begin > done && !drop_rest) DP_TRY(run_stage(s, index + 1, text + done, begin - done));
    if (end > begin && !drop_matches) DP_TRY(run_stage(s, index + 1, text + begin, end - begin));
    done = end;
    from = end > begin ? end : step_over(text, n, end);
  }
  return done < n && !drop_rest ? run_stage(s, index + 1, text + done, n - done) : DP_SUCCESS;
}

static dp_status add_cut(dp_split_work *work, int index, size_t *count, cut c) {
  if (*count == work->cut_capacity[index]) {
    size_t capacity = *count ? *count * 2 : 64;
    cut *cuts = realloc(work->cuts[index], capacity * sizeof *cuts);
    if (!cuts) return dp_fail(DP_NO_MEMORY, "no memory to split a text");
    work->cuts[index] = cuts;
    work->cut_capacity[index] = capacity;
  }
  work->cuts[index][(*count)++] = c;
  return DP_SUCCESS;
}

/* The behaviors that join a piece with its neighbour: all cuts first, then the joins, in place. */
static dp_status run_joined(const splitting *s, int index, const char *text, size_t n) {
  const split_stage *stage = &s->splitter->stages[index];
  size_t count = 0, done = 0, kept = 0;
  for (size_t from = 0; from <= n;) {
    bool found = false;
    size_t begin = 0, end = 0;
    DP_TRY(next_match(s, index, text, n, from, &found, &begin, &end));
    if (!found) break;
    if (begin == end && begin == done && from) { /* nothing right after a match is no match */
      from = step_over(text, n, end);
      continue;
    }
    if (begin > done) DP_TRY(add_cut(s->work, index, &count, (cut){done, begin, stage->invert}));
    DP_TRY(add_cut(s->work, index, &count, (cut){begin, end, !stage->invert}));
    done = end;
    from = end > begin ? end : step_over(text, n, end);
  }
  if (done < n) DP_TRY(add_cut(s->work, index, &count, (cut){done, n, stage->invert}));
  cut *cuts = s->work->cuts[index];
  if (stage->behavior == DP_SPLIT_MERGED_WITH_NEXT) {
    /* from the right; the joined cuts gather at the end of the array */
    bool after_match = false;
    size_t first = count;
    for (size_t i = count; i-- > 0;) {
      bool is_match = cuts[i].is_match;
      if (is_match && !after_match && first < count)
        cuts[first].begin = cuts[i].begin;
      else
        cuts[--first] = cuts[i];
      after_match = is_match;
    }
    kept = count - first;
    if (kept) memmove(cuts, cuts + first, kept * sizeof *cuts);
  } else {
    bool after_match = false;
    for (size_t i = 0; i < count; i++) {
      bool is_match = cuts[i].is_match;
      bool joins = stage->behavior == DP_SPLIT_CONTIGUOUS ? i && is_match == after_match : is_match && !after_match;
      if (joins && kept)
        cuts[kept - 1].end = cuts[i].end;
      else
        cuts[kept++] = cuts[i];
      after_match = is_match;
    }
  }
  for (size_t i = 0; i < kept; i++) {
    cut c = s->work->cuts[index][i];
    if (c.end > c.begin) DP_TRY(run_stage(s, index + 1, text + c.begin, c.end - c.begin));
  }
  return DP_SUCCESS;
}

static dp_status run_prefix(const splitting *s, int index, const char *text, size_t n) {
  if (text[0] == ' ') return run_stage(s, index + 1, text, n);
  dp_str *prefixed = &s->work->prefixed[index];
  dp_str_clear(prefixed);
  dp_str_addc(prefixed, ' ');
  dp_str_addn(prefixed, text, n);
  if (prefixed->failed) return dp_fail(DP_NO_MEMORY, "no memory to split a text of %zu bytes", n);
  return run_stage(s, index + 1, prefixed->text, prefixed->length);
}

/* Recursion is as deep as there are stages. */
static dp_status run_stage(const splitting *s, int index, const char *text, size_t n) {
  if (index == s->splitter->stage_count) return s->word(s->context, text, n);
  const split_stage *stage = &s->splitter->stages[index];
  if (!stage->regex) return run_prefix(s, index, text, n);
  if (stage->behavior == DP_SPLIT_ISOLATED || stage->behavior == DP_SPLIT_REMOVED)
    return run_isolated(s, index, text, n);
  return run_joined(s, index, text, n);
}

dp_status dp_splitter_run(const dp_splitter *splitter, dp_split_work **work, const char *text, size_t n,
                          dp_word_fn *word, void *context) {
  if (n == 0) return DP_SUCCESS;
  if (!*work && !(*work = calloc(1, sizeof **work))) return dp_fail(DP_NO_MEMORY, "no memory to split a text");
  splitting s = {splitter, *work, word, context};
  return run_stage(&s, 0, text, n);
}
