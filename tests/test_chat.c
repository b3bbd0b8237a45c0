/* tests/test_chat.c: what chat templates render to. The table's right column is what jinja2 3.1 gives for the left one,
 * set up as transformers does (trim_blocks, lstrip_blocks, loop controls, its tojson and raise_exception). */
#include "runtime/runtime.h"

#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const dp_chat_message messages[] = {
    {"system", " Be nice. "},
    {"user", "H\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD [INST]\n"},
    {"assistant", "<think>\nhm\n</think>\n\nok"},
    {"user", "  more?"},
};
static const dp_chat_options options = {.add_generation_prompt = true, .bos_token = "<s>", .eos_token = "</s>"};

/* Template, and what it renders to. */
static const char *const renderings[][2] = {
    {"{{ 1 + 2 * 3 - 4 // 3 % 2 }}", "6"},
    {"{{ 7 / 2 }}", "3.5"},
    {"{{ -7 // 2 }}", "-4"},
    {"{{ -7 % 3 }}", "2"},
    {"{{ 2 ** 3 ** 2 }}", "64"},
    {"{{ -2 ** 2 }}", "4"},
    {"{{ 1 ~ 'a' ~ none ~ true ~ 1.5 }}", "1aNoneTrue1.5"},
    {"{{ 'a' 'b' \"c\" }}", "abc"},
    {"{{ 'a\\n\\t\\x41\\u00e9\\'\"' }}", "a\n\tA\xC3\xA9'\""},
    {"{{ \"\\\\q\\q\" }}", "\\q\\q"},
    {"{{ not true or false and true }}", "False"},
    {"{{ 1 < 2 < 3 }}", "True"},
    {"{{ 1 < 3 < 2 }}", "False"},
    {"{{ 'a' in 'abc' }}", "True"},
    {"{{ 'x' not in ['a'] }}", "True"},
    {"{{ 'role' in messages[0] }}", "True"},
    {"{{ messages|length }}", "4"},
    {"{{ messages[0].role }}", "system"},
    {"{{ messages[0]['content']|trim }}", "Be nice."},
    {"{{ messages[-1].content }}", "  more?"},
    {"{{ messages[1:]|length }}", "3"},
    {"{{ messages[::-1][0].role }}", "user"},
    {"{{ messages[1].content[2:5] }}", " \xE4\xBD\xA0\xE5\xA5\xBD"},
    {"{{ messages[1].content[-3:] }}", "T]\n"},
    {"{{ messages[1].content[::-1] }}", "\n]TSNI[ \xE5\xA5\xBD\xE4\xBD\xA0 \xC3\xA9H"},
    {"{{ messages[1].content[3] }}", "\xE4\xBD\xA0"},
    {"{{ 'abc'[10] }}", ""},
    {"{{ 'abc'[1:][0] }}", "b"},
    {"{{ none }}", "None"},
    {"{{ [1,'a',none,true,1.0,[2],{'a':\"it's\"}] }}", "[1, 'a', None, True, 1.0, [2], {'a': \"it's\"}]"},
    {"{{ {'a':1,'b':[1,2]} }}", "{'a': 1, 'b': [1, 2]}"},
    {"{{ (1,) }}", "(1,)"},
    {"{{ () }}", "()"},
    {"{{ (1,2) }}", "(1, 2)"},
    {"{{ [] }}", "[]"},
    {"{{ {} }}", "{}"},
    {"{{ 1.0 }}", "1.0"},
    {"{{ 0.1 }}", "0.1"},
    {"{{ 3.14159 }}", "3.14159"},
    {"{{ 2.5 * 2 }}", "5.0"},
    {"{{ 1/3 }}", "0.3333333333333333"},
    {"{{ undefined_thing }}", ""},
    {"{{ undefined_thing is defined }}", "False"},
    {"{{ undefined_thing|default('d') }}", "d"},
    {"{{ ''|default('d', true) }}", "d"},
    {"{{ none|default('d') }}", "None"},
    {"{{ '  x '|trim }}", "x"},
    {"{{ 'xxaxx'|trim('x') }}", "a"},
    {"{{ 'abc'|upper }}", "ABC"},
    {"{{ 'ABC'|lower }}", "abc"},
    {"{{ 'hello world'|title }}", "Hello World"},
    {"{{ 'hello World'|capitalize }}", "Hello world"},
    {"{{ 'abc'|length }}", "3"},
    {"{{ '\xC3\xA9\xE4\xB8\xAD'|length }}", "2"},
    {"{{ messages|tojson }}",
     "[{\"role\": \"system\", \"content\": \" Be nice. \"}, {\"role\": \"user\", \"content\": \"H\xC3\xA9 "
     "\xE4\xBD\xA0\xE5\xA5\xBD [INST]\\n\"}, {\"role\": \"assistant\", \"content\": "
     "\"<think>\\nhm\\n</think>\\n\\nok\"}, {\"role\": \"user\", \"content\": \"  more?\"}]"},
    {"{{ {'a':1,'b':[1,2.5,none,true,'\xC3\xA9\\n\"\\\\']}|tojson }}",
     "{\"a\": 1, \"b\": [1, 2.5, null, true, \"\xC3\xA9\\n\\\"\\\\\"]}"},
    {"{{ {'b':1,'a':{'c':[]}}|tojson(indent=2) }}", "{\n  \"b\": 1,\n  \"a\": {\n    \"c\": []\n  }\n}"},
    {"{{ {'b':1,'a':2}|tojson(sort_keys=true) }}", "{\"a\": 2, \"b\": 1}"},
    {"{{ '\xC3\xA9'|tojson(ensure_ascii=true) }}", "\"\\u00e9\""},
    {"{{ '\xF0\x9F\x98\x80'|tojson(ensure_ascii=True) }}", "\"\\ud83d\\ude00\""},
    {"{{ []|tojson(indent=4) }}", "[]"},
    {"{{ {}|tojson(indent=4) }}", "{}"},
    {"{{ [1,2]|tojson(separators=(',',':')) }}", "[1,2]"},
    {"{{ [3,1,2]|join('-') }}", "3-1-2"},
    {"{{ ['a','b']|join }}", "ab"},
    {"{{ messages|map(attribute='role')|join(',') }}", "system,user,assistant,user"},
    {"{{ messages|map(attribute='role')|list }}", "['system', 'user', 'assistant', 'user']"},
    {"{{ ['a','b']|map('upper')|list }}", "['A', 'B']"},
    {"{{ messages|selectattr('role','equalto','user')|list|length }}", "2"},
    {"{{ messages|rejectattr('role','equalto','user')|map(attribute='role')|list }}", "['system', 'assistant']"},
    {"{{ messages|selectattr('content')|list|length }}", "4"},
    {"{{ [1,2,3]|select('odd')|list }}", "[1, 3]"},
    {"{{ [1,2,3]|reject('even')|list }}", "[1, 3]"},
    {"{{ [1,2]|first }}", "1"},
    {"{{ [1,2]|last }}", "2"},
    {"{{ []|first }}", ""},
    {"{{ 'abc'|reverse }}", "cba"},
    {"{{ [1,2]|reverse|list }}", "[2, 1]"},
    {"{{ 'abc'|list }}", "['a', 'b', 'c']"},
    {"{{ '12'|int }}", "12"},
    {"{{ 'x'|int }}", "0"},
    {"{{ 'x'|int(7) }}", "7"},
    {"{{ '1.5'|float }}", "1.5"},
    {"{{ 3.7|int }}", "3"},
    {"{{ 'a.b.c'.split('.') }}", "['a', 'b', 'c']"},
    {"{{ '  a b  c '.split() }}", "['a', 'b', 'c']"},
    {"{{ 'a b c'.split(' ',1) }}", "['a', 'b c']"},
    {"{{ 'a,b,c'.rsplit(',',1) }}", "['a,b', 'c']"},
    {"{{ 'a,b,c'.split(',')[-1] }}", "c"},
    {"{{ 'abc'.startswith('ab') }}", "True"},
    {"{{ 'abc'.startswith(('x','a')) }}", "True"},
    {"{{ 'abc'.endswith('c') }}", "True"},
    {"{{ ' x '.strip() }}", "x"},
    {"{{ 'xax'.strip('x') }}", "a"},
    {"{{ 'xax'.lstrip('x') }}", "ax"},
    {"{{ 'xax'.rstrip('x') }}", "xa"},
    {"{{ 'abc'.upper() }}", "ABC"},
    {"{{ 'ABC'.lower() }}", "abc"},
    {"{{ 'abc def'.title() }}", "Abc Def"},
    {"{{ 'abc'.replace('b','X') }}", "aXc"},
    {"{{ 'aaa'.replace('a','b',2) }}", "bba"},
    {"{{ 'abc'.replace('','-') }}", "-a-b-c-"},
    {"{{ 'abc'|replace('b','') }}", "ac"},
    {"{{ 'abcabc'.find('c') }}", "2"},
    {"{{ 'abcabc'.rfind('c') }}", "5"},
    {"{{ '\xC3\xA9\xE4\xB8\xAD"
     "c'.find('c') }}",
     "2"},
    {"{{ 'abc'.count('b') }}", "1"},
    {"{{ 'a\\nb\\r\\nc'.splitlines() }}", "['a', 'b', 'c']"},
    {"{{ '-'.join(['a','b']) }}", "a-b"},
    {"{{ 'abc'.removeprefix('a') }}", "bc"},
    {"{{ 'abc'.removesuffix('c') }}", "ab"},
    {"{{ '12'.isdigit() }}", "True"},
    {"{{ messages[0].get('role') }}", "system"},
    {"{{ messages[0].get('zip','d') }}", "d"},
    {"{{ messages[0].items()|list }}", "[('role', 'system'), ('content', ' Be nice. ')]"},
    {"{{ messages[0].keys()|list }}", "['role', 'content']"},
    {"{{ {'b':1,'a':2}|dictsort }}", "[('a', 2), ('b', 1)]"},
    {"{{ {'a':1}.values()|list }}", "[1]"},
    {"{{ {'a':1}|items|list }}", "[('a', 1)]"},
    {"{{ 1 is defined }}", "True"},
    {"{{ 'a' is string }}", "True"},
    {"{{ {} is mapping }}", "True"},
    {"{{ [] is iterable }}", "True"},
    {"{{ '' is iterable }}", "True"},
    {"{{ 1 is iterable }}", "False"},
    {"{{ 1 is number }}", "True"},
    {"{{ 1.5 is number }}", "True"},
    {"{{ true is number }}", "True"},
    {"{{ true is boolean }}", "True"},
    {"{{ 1 is integer }}", "True"},
    {"{{ true is integer }}", "False"},
    {"{{ none is none }}", "True"},
    {"{{ x is none }}", "False"},
    {"{{ 1 is odd }}", "True"},
    {"{{ 2 is even }}", "True"},
    {"{{ 4 is divisibleby 2 }}", "True"},
    {"{{ 4 is divisibleby(3) }}", "False"},
    {"{{ 'a' is in ['a'] }}", "True"},
    {"{{ 1 is eq 1 }}", "True"},
    {"{{ 1 is not eq 2 }}", "True"},
    {"{{ messages is sequence }}", "True"},
    {"{{ messages is mapping }}", "False"},
    {"{{ true is true }}", "True"},
    {"{{ 1 is true }}", "False"},
    {"{{ 'yes' if true else 'no' }}", "yes"},
    {"{{ 'yes' if false }}", ""},
    {"{{ 'a' if 1 > 2 else 'b' if 2 > 3 else 'c' }}", "c"},
    {"{{ range(3)|list }}", "[0, 1, 2]"},
    {"{{ range(1,10,3)|list }}", "[1, 4, 7]"},
    {"{{ range(5,0,-2)|list }}", "[5, 3, 1]"},
    {"{{ 'ab' * 3 }}", "ababab"},
    {"{{ [1] * 2 }}", "[1, 1]"},
    {"{{ [1] + [2] }}", "[1, 2]"},
    {"{{ 'a' < 'b' }}", "True"},
    {"{{ 1 == 1.0 }}", "True"},
    {"{{ 1 == '1' }}", "False"},
    {"{{ '1' == 1 }}", "False"},
    {"{{ true == 1 }}", "True"},
    {"{{ none == false }}", "False"},
    {"{{ [1] == [1] }}", "True"},
    {"{{ [1] == (1,) }}", "False"},
    {"{{ {'a':1} == {'a':1.0} }}", "True"},
    {"{{ undefined_thing == none }}", "False"},
    {"{{ undefined_thing ~ 'a' }}", "a"},
    {"{{ undefined_thing|length }}", "0"},
    {"{{ undefined_thing|trim }}", ""},
    {"{{ none.x }}", ""},
    {"{{ (1).x }}", ""},
    {"{{ messages.x }}", ""},
    {"{{ messages[99] }}", ""},
    {"{{ messages['x'] }}", ""},
    {"{{ {'items':3}['items'] }}", "3"},
    {"{{ {'a':{'b':2}}.a.b }}", "2"},
    {"{{ 5 % 3 }}", "2"},
    {"{{ 5.5 % 2 }}", "1.5"},
    {"{{ -5.5 // 2 }}", "-3.0"},
    {"{{ 'a' if x is defined else 'b' }}", "b"},
    {"{{ messages[0]['role'] == 'system' }}", "True"},
    {"{{ not messages }}", "False"},
    {"{{ messages and true }}", "True"},
    {"{{ '' or 'x' }}", "x"},
    {"{{ 0 or none }}", "None"},
    {"{{ 1 and 2 }}", "2"},
    {"{{ [1,2,3][1:] }}", "[2, 3]"},
    {"{{ [1,2,3][:-1] }}", "[1, 2]"},
    {"{{ [1,2,3][::2] }}", "[1, 3]"},
    {"{{ [1,2,3][5:] }}", "[]"},
    {"{{ 'abc'[-2:-1] }}", "b"},
    {"{{ 'abc'[1:2] }}", "b"},
    {"{{ \"it's\" }}", "it's"},
    {"{{ [\"it's\", 'q\"q', 'b\\'\"'] }}", "[\"it's\", 'q\"q', 'b\\'\"']"},
    {"{{ ['\xC3\xA9\\n\\x00\\u200b\\u2028'] }}", "['\xC3\xA9\\n\\x00\\u200b\\u2028']"},
    {"{{ 1 if 1 is defined and 1 is not none else 2 }}", "1"},
    {"{{ 'line1\\nline2'|indent(2) }}", "line1\n  line2"},
    {"{{ 'line1\\n\\nline2'|indent(2, true) }}", "  line1\n\n  line2"},
    {"{{ 'x'|indent(width=3,first=true) }}", "   x"},
    {"{{ ['a','b']|last }}", "b"},
    {"{{ [1,3,2]|max }}", "3"},
    {"{{ [1,3,2]|min }}", "1"},
    {"{{ -3|abs }}", "3"},
    {"{{ 'a' ~ ('b' if false) }}", "a"},
    {"{{ ('b','c')|join }}", "bc"},
    {"{{ messages|map(attribute='nope')|list }}", "[Undefined, Undefined, Undefined, Undefined]"},
    {"{{ messages|map(attribute='nope', default='z')|list }}", "['z', 'z', 'z', 'z']"},
    {"{{ 'abc'|count }}", "3"},
    {"{{ -1|abs }}", "1"},
    {"{{ not 1 == 2 }}", "True"},
    {"{{ 1 is not none }}", "True"},
    {"{{ (1 is none) is false }}", "True"},
    {"{{ 'x' is in 'xyz' }}", "True"},
    {"{{ loop }}", ""},
    {"{{ dict(a=1,b=2) }}", "{'a': 1, 'b': 2}"},
    {"{{ 'a'is defined }}", "True"},
    {"{{ messages[0].content|length > 3 }}", "True"},
    {"{{ 'foo' and ('a','b') }}", "('a', 'b')"},
    {"{{ 1,2 }}", "(1, 2)"},
    {"{{ '\\x01'|tojson }}", "\"\\u0001\""},
    {"{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ "
     "loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem is "
     "defined }}{{ m.role }}|{{ loop.cycle('a','b') }}\n{% endfor %}",
     "10TrueFalse443Truesystem|a\n21FalseFalse432systemTrueuser|b\n32FalseFalse421userTrueassistant|"
     "a\n43FalseTrue410assistantFalseuser|b\n"},
    {"{% for m in messages if m.role == 'user' %}\n  {{ m.role }} {{ loop.index }}\n{% else %}\nnone\n{% endfor %}",
     "  user 1\n  user 2\n"},
    {"{% for x in [] %}a{% else %}b{% endfor %}", "b"},
    {"{% for k, v in {'a':1,'b':2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k in {'a':1} %}{{ k }}{% endfor %}{% "
     "for c in 'h\xC3\xA9y' %}[{{ c }}]{% endfor %}",
     "a=1;b=2;a[h][\xC3\xA9][y]"},
    {"{% set x = 1 %}{% for i in [1,2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "231"},
    {"{% set ns = namespace(a=1, b='x') %}{% for i in [1,2] %}{% set ns.a = ns.a + i %}{% set ns.c = i %}{% endfor "
     "%}{{ ns.a }}{{ ns.c }}{{ ns.b }}{{ ns.zz is defined }}",
     "42xFalse"},
    {"{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}",
     "12(1, 2)34"},
    {"{% set x %}hello {{ 1 }}{% endset %}[{{ x }}]{% set y | upper | trim %} a b {% endset %}[{{ y }}]",
     "[hello 1][A B]"},
    {"{% macro f(a, b='d', c=none) %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(a=3, c='z') }}{{ "
     "f() }}{{ f('x') | upper }}",
     "<1dNone><12None><3dz><dNone><XDNONE>"},
    {"{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "543210"},
    {"{% set g = 'G' %}{% macro f() %}{{ g }}{{ messages | length }}{% endmacro %}{% for g in [1,2] %}{{ f() }}{% "
     "endfor %}",
     "G4G4"},
    {"{% macro f() %}{{ g }}{% endmacro %}{% set g = 'late' %}{{ f() }}", "late"},
    {"{% for i in [1,2,3,4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% "
     "endfor %}",
     "13"},
    {"{% if false %}a{% elif true %}b{% else %}c{% endif %}{% if 0 %}{% else %}d{% endif %}", "bd"},
    {"  {% if true %}\n    x\n  {% endif %}\n  y", "    x\n  y"},
    {"a  {%- if true -%}  b  {%- endif -%}  c {{- 1 -}} d {{ 2 }}\n  e", "abc1d 2\n  e"},
    {"a\n    {%+ if true %}x{% endif +%}\nb", "a\n    x\nb"},
    {"a\n   {# comment #}\nb {# x -#}   c\n   {#- y #}\n d {# unclosed-looking %} }} #} e", "a\nb c d  e"},
    {"{% raw %}{{ x }} {% if %}{% endraw %}!{%- raw -%}  {{ y }}  {%- endraw -%}  z", "{{ x }} {% if %}!{{ y }}z"},
    {"{{ '}}' }}{{ \"{%\" }}{{ {'a': {'b': 1}}['a']['b'] }}", "}}{%1"},
    {"{{ '' }}\n{{ 1 }}\n\n{% if true %}\n\nx\n\n{% endif %}\n", "\n1\n\n\nx\n\n"},
    {"{% for i in range(3) %}{% for j in range(2) %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% "
     "endfor %}",
     "100 201 1110 211 2120 221 3"},
    {"{% with a = 1, b = 2 %}{{ a + b }}{% set c = 9 %}{% endwith %}{{ a is defined }}{{ c is defined }}",
     "3FalseFalse"},
    {"{%if true%}x{%endif%}{{1}}{{-1}}{{ -1 }}", "x11-1"},
    {"{{ messages[0] }}{{ messages[0].items() | list }}",
     "{'role': 'system', 'content': ' Be nice. '}[('role', 'system'), ('content', ' Be nice. ')]"},
    {"{% set ns = namespace() %}{% set ns.l = [] %}{% set ns.l = ns.l + ['a'] %}{{ ns.l }}", "['a']"},
    {"{% set x = undefined_thing %}{{ x is defined }}{{ x }}", "False"},
    {"{% for x in undefined_thing %}a{% endfor %}b", "b"},
    {"{% set loop_messages = messages[1:] %}{% for m in loop_messages %}{% set content = m.content %}{{ content }}{% "
     "endfor %}{{ content is defined }}",
     "H\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD [INST]\n<think>\nhm\n</think>\n\nok  more?False"},
    {"{{ \"a\nb\" }}", "a\nb"},
    {"{%- for message in messages -%}\n  {%- if loop.first -%} F {%- endif %}\n\n  {{- message.role | upper }} : {{ "
     "message.content | trim -}}\n{%- endfor %}\n",
     "FSYSTEM : Be nice.USER : H\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD [INST]ASSISTANT : <think>\nhm\n</think>\n\nokUSER : "
     "more?"},
    {"x\n{% set a = 1 -%}\n\ny\n\t{% set b = 2 %}\t\nz", "x\ny\n\t\nz"},
    {"{% macro m(x) -%}\n  {%- for k in x %}{{ k }},{% endfor -%}\n{%- endmacro -%}\n{{- m(['a','b']) -}}", "a,b,"},
};

static void expect_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

static dp_status render_with(const char *source, size_t n, const dp_chat_options *with, dp_str *out) {
  dp_chat_template *chat = NULL;
  DP_TRY(dp_chat_template_new(source, n, &chat));
  dp_status status = dp_chat_render(chat, messages, DP_COUNT(messages), with, out);
  dp_chat_template_free(chat);
  return status;
}

static void expect_text(const char *source, const dp_chat_options *with, const char *wanted) {
  dp_str out = {0};
  dp_status status = render_with(source, strlen(source), with, &out);
  ck_assert_msg(status.code == DP_OK, "%s: %s", source, dp_status_text(&status));
  ck_assert_msg(strcmp(out.text ? out.text : "", wanted) == 0, "%s\n gives '%s'\n not   '%s'", source,
                out.text ? out.text : "", wanted);
  dp_str_free(&out);
}

static void expect_failure(const char *source, dp_code code, const char *words) {
  dp_str out = {0};
  dp_str_add(&out, "before");
  dp_status status = render_with(source, strlen(source), &options, &out);
  ck_assert_msg(status.code == code && strstr(dp_status_text(&status), words),
                "%.200s: expected code %d with '%s', got %d: %s", source, code, words, status.code,
                dp_status_text(&status));
  ck_assert_str_eq(out.text, "before");
  dp_status_free(&status);
  dp_str_free(&out);
}

START_TEST(templates_render_as_jinja_renders_them) {
  for (size_t i = 0; i < DP_COUNT(renderings); i++) expect_text(renderings[i][0], &options, renderings[i][1]);
}
END_TEST

START_TEST(newlines_of_any_system_read_as_newlines) {
  expect_text("a\r\nb\rc\n", &options, "a\nb\nc");
  expect_text("{% if true %}\r\nx\r\n{% endif %}\r\n", &options, "x\n");
}
END_TEST

START_TEST(chatml_renders_each_message_and_the_prompt) {
  static const char chatml[] =
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
      "are "
      "a helpful AI assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
      "+ "
      "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  dp_chat_template *chat;
  expect_ok(dp_chat_template_new(chatml, strlen(chatml), &chat));
  dp_str out = {0};
  dp_chat_options with = {.add_generation_prompt = true};
  expect_ok(dp_chat_render(chat, &(dp_chat_message){"user", "hi"}, 1, &with, &out));
  with.add_generation_prompt = false;
  expect_ok(dp_chat_render(chat, &(dp_chat_message){"system", "be"}, 1, &with, &out)); /* appends */
  ck_assert_str_eq(out.text,
                   "<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
                   "<|im_start|>assistant\n<|im_start|>system\nbe<|im_end|>\n");
  dp_str_free(&out);
  dp_chat_template_free(chat);
}
END_TEST

START_TEST(variables_are_what_the_caller_gives) {
  dp_chat_options with = {.variables = "{\"tools\":[{\"name\":\"f\",\"n\":1.5}],\"enable_thinking\":false,\"messages\":"
                                       "[{\"role\":\"tool\",\"content\":null,\"calls\":[1]}]}"};
  expect_text("{{ tools | tojson }}{{ enable_thinking }}{{ messages[0].calls[0] }}{{ messages[0].content is none }}"
              "{{ bos_token is defined }}{{ documents is none }}",
              &with, "[{\"name\": \"f\", \"n\": 1.5}]False1TrueFalseTrue");
  static const char *const wrong[] = {"[1]", "{", "", "{\"a\":1,\"a\":2}"};
  for (size_t i = 0; i < DP_COUNT(wrong); i++) {
    with.variables = wrong[i];
    dp_str out = {0};
    dp_status status = render_with("x", 1, &with, &out);
    ck_assert_int_eq(status.code, DP_INVALID);
    ck_assert_ptr_null(out.text);
    dp_status_free(&status);
  }
}
END_TEST

START_TEST(the_date_is_the_caller_s) {
  expect_text("{{ strftime_now is defined }}", &options, "False");
  struct tm day = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_wday = 5};
  dp_chat_options with = {.now = &day};
  expect_text("{% if strftime_now is defined %}{{ strftime_now('%d %m %Y') }}{% endif %}", &with, "26 07 2024");
}
END_TEST

/* The message names the thing and its line. */
START_TEST(what_is_not_handled_is_named_with_its_line) {
  static const char *const cases[][2] = {
      {"a\nb\n{{ 1 | wordwrap }}", "line 3: the filter 'wordwrap'"},
      {"\n{% include 'x' %}", "line 2: the statement 'include'"},
      {"{% if x is escaped %}{% endif %}", "the test 'escaped'"},
      {"{{ 'a'.zfill(3) }}", "the method 'zfill'"},
      {"{{ '%s' % 1 }}", "'%'"},
      {"{{ joiner() }}", "the function 'joiner'"},
      {"{{ 'a' | trim(left=true) }}", "'left'"},
      {"{{ [1] | map('nothing') }}", "the filter 'nothing'"},
      {"{{ [1] | select('nothing') }}", "the test 'nothing'"},
      {"{{ '\xC3\xA9' | upper }}", "'upper' of letters beyond ASCII"},
      {"{{ f(*args) }}", "'*'"},
      {"{% for a in b recursive %}{% endfor %}", "'recursive'"},
      {"{{ 0x10 }}", "a number"},
      {"{{ 9223372036854775807 }}", "a number"},
      {"{{ 9 ** 99 }}", "64 bits"},
      {"{{ namespace() }}", "namespace"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) expect_failure(cases[i][0], DP_UNSUPPORTED, cases[i][1]);
}
END_TEST

START_TEST(what_is_wrong_is_told_with_its_line) {
  static const char *const cases[][2] = {
      {"{% if 1 %}x", "before '{% endif %}'"},
      {"{% for a in b %}", "before '{% endfor %}'"},
      {"\n\n{% endif %}", "line 3: 'endif' ends nothing"},
      {"{{ 1 + }}", "expected an expression"},
      {"{{ (1 }}", "does not match"},
      {"{{ 1) }}", "does not match"},
      {"{{ 'a }}", "not closed"},
      {"{{ 1", "{{ is not closed"},
      {"{% if 1", "{% is not closed"},
      {"{# a", "{# is not closed"},
      {"{% raw %}", "endraw"},
      {"{{ ! }}", "a character that Jinja does not know"},
      {"{% break %}", "outside of a loop"},
      {"{% set 1 = 2 %}", "expected a name"},
      {"{{ f(a=1, 2) }}", "by position after one by keyword"},
      {"{{ 'a' + 1 }}", "between string and int"},
      {"{{ nothing.at.all }}", "'nothing' is undefined"},
      {"{{ nothing() }}", "'nothing' is undefined"},
      {"{{ 1 // 0 }}", "division by zero"},
      {"{{ 1 < 'a' }}", "no order between int and string"},
      {"{% for x in 3 %}{% endfor %}", "a int cannot be gone through"},
      {"{{ [1].append(2) }}", "forbidden"},
      {"{{ {'a': 1}.update({}) }}", "forbidden"},
      {"{% set a, b = [1] %}", "1 values for 2 names"},
      {"{% set x.y = 1 %}", "'x' is no namespace"},
      {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "takes 1 arguments"},
      {"{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", "no parameter"},
      {"\n{{ raise_exception('roles must ' ~ 'alternate') }}", "line 2: the template refuses: roles must alternate"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) expect_failure(cases[i][0], DP_INVALID, cases[i][1]);
}
END_TEST

/* Each of these would run out of stack, memory or patience. */
START_TEST(hostile_templates_are_stopped) {
  static const char *const cases[] = {
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(a) %}{% for x in a %}{{ f([x, x]) }}{% endfor %}{% endmacro %}{{ f([1, 2]) }}",
      "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% set n = namespace(s=[]) %}{% for i in range(999) %}{% set n.s = [n.s] %}{% endfor %}{{ n.s }}",
      "{% set n = namespace(s=[]) %}{% for i in range(999) %}{% set n.s = [n.s] %}{% endfor %}{{ n.s | tojson }}",
      "{% set n = namespace(s=[], t=[]) %}{% for i in range(999) %}{% set n.s = [n.s] %}{% set n.t = [n.t] %}"
      "{% endfor %}{{ n.s == n.t }}",
      "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% "
      "endfor %}",
      "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
      "{% set s = 'x' * 9999999 %}{% for i in range(99999) %}{{ 'y' in s }}{% endfor %}",
      "{% set s = ' ' * 9999999 %}{% for i in range(99999) %}{{ s.strip() }}{% endfor %}",
      "{% set l = [0] * 99999 %}{% for i in range(99999) %}{{ l == l }}{% endfor %}",
      "{{ 'x' * 99999999999999 }}",
      "{{ [1] * 99999999999999 }}",
      "{{ range(99999999999) }}",
      "{% set s = 'x' * 99999 %}{{ s.replace('x', s) }}",
      "{% set s = 'x' * 99999 %}{{ s | join(s) }}",
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) expect_failure(cases[i], DP_INVALID, "line 1");
}
END_TEST

START_TEST(deep_nesting_is_refused_not_run) {
  static const char *const parts[][3] = {
      {"{{ ", "(", "1 }}"},         {"{{ ", "not ", "1 }}"},        {"{{ ", "-", "1 }}"},       {"", "{% if 1 %}", ""},
      {"{{ 1", "+1", " }}"},        {"{{ a", ".b", " }}"},          {"{{ 1", "|string", " }}"}, {"{{ [", "[", "1 }}"},
      {"", "{% for a in b %}", ""}, {"{{ 1", " if 1 else 1", " }}"}};
  for (size_t i = 0; i < DP_COUNT(parts); i++) {
    dp_str source = {0}, out = {0};
    dp_str_add(&source, parts[i][0]);
    for (int k = 0; k < 20000; k++) dp_str_add(&source, parts[i][1]);
    dp_str_add(&source, parts[i][2]);
    dp_status status = render_with(source.text, source.length, &options, &out);
    ck_assert_msg(status.code == DP_UNSUPPORTED || status.code == DP_INVALID, "%s", parts[i][1]);
    dp_status_free(&status);
    dp_str_free(&source);
    dp_str_free(&out);
  }
}
END_TEST

static uint32_t random_below(uint64_t *state, uint32_t n) {
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)((*state >> 33) % n);
}

/* Under the sanitizers: pieces of templates put together at random render or fail, and nothing else. */
START_TEST(damaged_templates_never_crash) {
  static const char *const pieces[] = {
      "{%",       "%}",   "{{",          "}}",           "(",   ")",        "[",          "]",    "|",
      "'",        "-",    "{#",          "#}",           "if ", "for ",     "in ",        ".",    "~",
      "\\",       "\xC3", "{% raw %}",   "not ",         "is ", "loop",     "namespace(", "**",   "map(",
      "range(9)", ":",    "{% endif %}", "{% endfor %}", "1",   "messages", "else",       "set ", "="};
  uint64_t seed = 17;
  for (int round = 0; round < 4000; round++) {
    dp_str source = {0}, out = {0};
    const char *base = renderings[random_below(&seed, DP_COUNT(renderings))][0];
    size_t n = strlen(base), cut = random_below(&seed, (uint32_t)n + 1);
    dp_str_addn(&source, base, cut);
    for (uint32_t k = random_below(&seed, 4); k; k--)
      dp_str_add(&source, pieces[random_below(&seed, DP_COUNT(pieces))]);
    size_t rest = random_below(&seed, 3) ? cut : random_below(&seed, (uint32_t)n + 1);
    dp_str_addn(&source, base + rest, n - rest);
    dp_status status = render_with(source.text ? source.text : "", source.length, &options, &out);
    ck_assert_msg(status.code == DP_OK || status.code == DP_INVALID || status.code == DP_UNSUPPORTED, "%s: %s",
                  source.text, dp_status_text(&status));
    dp_status_free(&status);
    dp_str_free(&source);
    dp_str_free(&out);
  }
}
END_TEST

static void *render_many_times(void *chat) {
  dp_str *out = calloc(1, sizeof *out);
  for (int i = 0; out && i < 200; i++) {
    dp_str_clear(out);
    dp_status status = dp_chat_render(chat, messages, DP_COUNT(messages), &options, out);
    if (status.code != DP_OK) dp_str_clear(out);
    dp_status_free(&status);
  }
  return out;
}

START_TEST(two_threads_render_alike_with_one_template) {
  static const char source[] =
      "{% macro f(x) %}<{{ x | trim }}>{% endmacro %}{% for m in messages %}{{ f(m.content) }}{% endfor %}";
  dp_chat_template *chat;
  expect_ok(dp_chat_template_new(source, strlen(source), &chat));
  pthread_t threads[2];
  void *texts[2];
  for (int i = 0; i < 2; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, render_many_times, chat), 0);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], &texts[i]);
  ck_assert_str_eq(((dp_str *)texts[0])->text, ((dp_str *)texts[1])->text);
  ck_assert_uint_gt(((dp_str *)texts[0])->length, 20);
  for (int i = 0; i < 2; i++) {
    dp_str_free(texts[i]);
    free(texts[i]);
  }
  dp_chat_template_free(chat);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("chat");
  TCase *tests = tcase_create("chat");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, templates_render_as_jinja_renders_them);
  tcase_add_test(tests, newlines_of_any_system_read_as_newlines);
  tcase_add_test(tests, chatml_renders_each_message_and_the_prompt);
  tcase_add_test(tests, variables_are_what_the_caller_gives);
  tcase_add_test(tests, the_date_is_the_caller_s);
  tcase_add_test(tests, what_is_not_handled_is_named_with_its_line);
  tcase_add_test(tests, what_is_wrong_is_told_with_its_line);
  tcase_add_test(tests, hostile_templates_are_stopped);
  tcase_add_test(tests, deep_nesting_is_refused_not_run);
  tcase_add_test(tests, damaged_templates_never_crash);
  tcase_add_test(tests, two_threads_render_alike_with_one_template);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
