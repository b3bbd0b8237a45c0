/* runtime/chat_lex.c: a template's source into tokens, white space control done: "-" eats white space, a block at the
 * start of a line eats its indentation (lstrip_blocks), and one that ends a line the newline (trim_blocks). */
#include "runtime/chat_parts.h"
#include "runtime/unicode.h"

#include <string.h>

typedef struct lexer {
  dp_arena *arena;
  const char *source; /* newlines are \n */
  size_t n, at;
  int line;
  size_t line_at; /* up to where newlines are counted in `line` */
  chat_tokens *out;
} lexer;

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_name(char c) { return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_'; }

static int line_of(lexer *x, size_t at) {
  for (; x->line_at < at; x->line_at++) x->line += x->source[x->line_at] == '\n';
  return x->line;
}

static bool looking_at(const lexer *x, size_t at, const char *text) {
  size_t n = strlen(text);
  return at <= x->n && x->n - at >= n && memcmp(x->source + at, text, n) == 0;
}

static size_t skip_space(const lexer *x, size_t at) {
  while (at < x->n && is_space(x->source[at])) at++;
  return at;
}

static chat_token *add(lexer *x, chat_token_kind kind, size_t at) {
  chat_token *token = &DP_PUSH(x->arena, x->out->items, x->out->count, x->out->cap);
  *token = (chat_token){.kind = kind, .line = line_of(x, at)};
  return token;
}

static dp_status fail(lexer *x, dp_code code, size_t at, const char *what) {
  return dp_fail(code, "chat template, line %d: %s", line_of(x, at), what);
}

/* ---- between the tags ------------------------------------------------------------------------------------------- */

/* The data before a tag at `end`, as its sign leaves it. */
static void add_data(lexer *x, size_t begin, size_t end, char sign, bool is_block) {
  if (sign == '-') {
    while (end > begin && is_space(x->source[end - 1])) end--;
  } else if (sign != '+' && is_block) {
    size_t line_start = end;
    while (line_start > begin && is_space(x->source[line_start - 1]) && x->source[line_start - 1] != '\n') line_start--;
    if (line_start == 0 || x->source[line_start - 1] == '\n') end = line_start;
  }
  if (end > begin) add(x, CHAT_T_DATA, begin)->text = (chat_text){x->source + begin, end - begin};
}

/* The end of a block tag or a comment at `at`: "%}", "-%}" or "+%}"; 0: it is none. Returns where the text goes on. */
static size_t after_end(const lexer *x, size_t at, const char *close) {
  char sign = at < x->n ? x->source[at] : 0;
  if (sign == '-' && looking_at(x, at + 1, close)) return skip_space(x, at + 1 + strlen(close));
  if (sign == '+' && looking_at(x, at + 1, close)) return at + 1 + strlen(close);
  if (!looking_at(x, at, close)) return 0;
  at += strlen(close);
  return at < x->n && x->source[at] == '\n' ? at + 1 : at;
}

static char sign_at(const lexer *x, size_t at) {
  char c = at < x->n ? x->source[at] : 0;
  return c == '-' || c == '+' ? c : 0;
}

/* "{%- name" at `at`: where it goes on, or 0. */
static size_t after_block_word(const lexer *x, size_t at, const char *word) {
  if (!looking_at(x, at, "{%")) return 0;
  at += 2;
  if (sign_at(x, at)) at++;
  at = skip_space(x, at);
  return looking_at(x, at, word) ? skip_space(x, at + strlen(word)) : 0;
}

/* {% raw %} at `begin`, which ends at `body`: all up to {% endraw %} is data. */
static dp_status lex_raw(lexer *x, size_t begin, size_t body) {
  for (size_t at = body; at < x->n; at++) {
    size_t end = after_block_word(x, at, "endraw");
    if (end) end = after_end(x, end, "%}");
    if (!end) continue;
    add_data(x, body, at, sign_at(x, at + 2), true);
    x->at = end;
    return DP_SUCCESS;
  }
  return fail(x, DP_INVALID, begin, "{% raw %} without its {% endraw %}");
}

/* ---- within the tags -------------------------------------------------------------------------------------------- */

static int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Python's escapes; an unknown one stays as it is. */
static dp_status lex_string(lexer *x) {
  size_t begin = x->at;
  char quote = x->source[x->at++];
  size_t length = 0, end = x->at;
  while (end < x->n && x->source[end] != quote) end += x->source[end] == '\\' ? 2 : 1;
  if (end >= x->n) return fail(x, DP_INVALID, begin, "a string that is not closed");
  char *text = dp_arena_alloc(x->arena, end - begin + 1);
  for (size_t at = x->at; at < end;) {
    char c = x->source[at++];
    if (c != '\\') {
      text[length++] = c;
      continue;
    }
    c = x->source[at++];
    static const char plain[] = "\\'\"abfnrtv", meaning[] = "\\'\"\a\b\f\n\r\t\v";
    const char *found = c ? strchr(plain, c) : NULL;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (found) {
      text[length++] = meaning[found - plain];
    } else if (c == '\n') {
      continue;
    } else if (digits) {
      uint32_t value = 0;
      for (int i = 0; i < digits; i++) {
        int digit = at < end ? hex_value(x->source[at++]) : -1;
        if (digit < 0) return fail(x, DP_INVALID, begin, "an escape in a string lacks hexadecimal digits");
        value = value << 4 | (uint32_t)digit;
      }
      if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
        return fail(x, DP_UNSUPPORTED, begin, "an escape in a string is no Unicode character");
      length += (size_t)dp_utf8_put(value, text + length); /* never longer than the escape */
    } else if (c >= '0' && c <= '7') {
      uint32_t value = (uint32_t)(c - '0');
      for (int i = 0; i < 2 && at < end && x->source[at] >= '0' && x->source[at] <= '7'; i++)
        value = value << 3 | (uint32_t)(x->source[at++] - '0');
      length += (size_t)dp_utf8_put(value, text + length);
    } else if (c == 'N') {
      return fail(x, DP_UNSUPPORTED, begin, "\\N{...} in a string is not handled");
    } else {
      text[length++] = '\\';
      text[length++] = c;
    }
  }
  add(x, CHAT_T_STRING, begin)->text = (chat_text){text, length};
  x->at = end + 1;
  return DP_SUCCESS;
}

static dp_status lex_number(lexer *x) {
  size_t begin = x->at, at = begin;
  uint64_t integer = 0;
  double number = 0;
  int scale = 0;
  bool is_float = false, overflow = false;
  bool after_dot = begin && x->source[begin - 1] == '.'; /* x.0.1 is two subscripts */
  for (; at < x->n && is_digit(x->source[at]); at++) {
    overflow |= integer > (INT64_MAX - 9) / 10;
    integer = integer * 10 + (uint64_t)(x->source[at] - '0');
    number = number * 10 + (x->source[at] - '0');
  }
  if (!after_dot && at + 1 < x->n && x->source[at] == '.' && is_digit(x->source[at + 1])) {
    is_float = true;
    for (at++; at < x->n && is_digit(x->source[at]); at++, scale--) number = number * 10 + (x->source[at] - '0');
  }
  if (at < x->n && is_name(x->source[at]))
    return fail(x, DP_UNSUPPORTED, begin, "a number with an exponent, a base or '_' is not handled");
  if (at - begin > 17) overflow = true;
  if (overflow) return fail(x, DP_UNSUPPORTED, begin, "a number is too long");
  double power = 1;
  for (; scale < 0; scale++) power *= 10;
  chat_token *token = add(x, is_float ? CHAT_T_FLOAT : CHAT_T_INT, begin);
  token->integer = (int64_t)integer;
  token->number = number / power;
  x->at = at;
  return DP_SUCCESS;
}

static dp_status lex_tag(lexer *x, size_t begin, bool is_block) {
  char open[CHAT_MAX_DEPTH];
  int depth = 0;
  add(x, is_block ? CHAT_T_BLOCK_BEGIN : CHAT_T_PRINT_BEGIN, begin);
  for (;;) {
    x->at = skip_space(x, x->at);
    if (x->at >= x->n) return fail(x, DP_INVALID, begin, is_block ? "{% is not closed" : "{{ is not closed");
    if (depth == 0) {
      size_t end = 0;
      if (is_block)
        end = after_end(x, x->at, "%}");
      else if (looking_at(x, x->at, "-}}"))
        end = skip_space(x, x->at + 3);
      else if (looking_at(x, x->at, "}}"))
        end = x->at + 2;
      if (end) {
        add(x, is_block ? CHAT_T_BLOCK_END : CHAT_T_PRINT_END, x->at);
        x->at = end;
        return DP_SUCCESS;
      }
    }
    char c = x->source[x->at];
    if (c == '\'' || c == '"') {
      DP_TRY(lex_string(x));
    } else if (is_digit(c)) {
      DP_TRY(lex_number(x));
    } else if (is_name(c)) {
      size_t start = x->at;
      while (x->at < x->n && is_name(x->source[x->at])) x->at++;
      add(x, CHAT_T_NAME, start)->text = (chat_text){x->source + start, x->at - start};
    } else {
      static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                              "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","};
      size_t i = 0;
      while (i < DP_COUNT(operators) && !looking_at(x, x->at, operators[i])) i++;
      if (i == DP_COUNT(operators)) return fail(x, DP_INVALID, x->at, "a character that Jinja does not know");
      if (strchr("([{", c)) {
        if (depth == CHAT_MAX_DEPTH) return fail(x, DP_INVALID, x->at, "brackets are nested too deep");
        open[depth++] = c == '(' ? ')' : c == '[' ? ']' : '}';
      } else if (strchr(")]}", c)) {
        if (depth == 0 || open[--depth] != c) return fail(x, DP_INVALID, x->at, "a bracket that does not match");
      }
      add(x, CHAT_T_OPERATOR, x->at)->text = (chat_text){operators[i], strlen(operators[i])};
      x->at += strlen(operators[i]);
    }
  }
}

/* ---- all of it -------------------------------------------------------------------------------------------------- */

static dp_status lex_from_tag(lexer *x, size_t tag) {
  char kind = x->source[tag + 1], sign = sign_at(x, tag + 2);
  size_t raw = kind == '%' ? after_block_word(x, tag, "raw") : 0;
  if (raw) {
    bool strip = looking_at(x, raw, "-%}");
    if (strip || looking_at(x, raw, "%}")) return lex_raw(x, tag, strip ? skip_space(x, raw + 3) : raw + 2);
  }
  x->at = tag + 2 + (sign != 0);
  if (kind != '#') return lex_tag(x, tag, kind == '%');
  for (size_t at = x->at; at < x->n; at++) {
    size_t end = after_end(x, at, "#}");
    if (!end) continue;
    x->at = end;
    return DP_SUCCESS;
  }
  return fail(x, DP_INVALID, tag, "{# is not closed");
}

dp_status chat_lex(dp_arena *arena, const char *source, size_t n, chat_tokens *out) {
  char *clean = dp_arena_alloc(arena, n + 1);
  size_t length = 0;
  for (size_t i = 0; i < n; i++) {
    if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n') continue;
    clean[length++] = source[i] == '\r' ? '\n' : source[i];
  }
  if (length && clean[length - 1] == '\n') length--;
  lexer x = {.arena = arena, .source = clean, .n = length, .line = 1, .out = out};
  while (x.at < x.n) {
    size_t tag = x.at;
    while (tag < x.n &&
           !(x.source[tag] == '{' && tag + 1 < x.n && strchr("{%#", x.source[tag + 1]) && x.source[tag + 1]))
      tag++;
    if (tag == x.n) {
      add_data(&x, x.at, tag, '+', false);
      break;
    }
    add_data(&x, x.at, tag, sign_at(&x, tag + 2), x.source[tag + 1] != '{');
    DP_TRY(lex_from_tag(&x, tag));
  }
  add(&x, CHAT_T_END, x.n);
  return DP_SUCCESS;
}
