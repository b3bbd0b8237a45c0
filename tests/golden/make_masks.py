"""What of a conversation the assistant's tokens are, by transformers: python make_masks.py SmolLM2-135M-Instruct.Q4_1.gguf

The file's chat template with {% generation %} around what the assistant writes (content and <|im_end|>), which is how
transformers is told; apply_chat_template(return_assistant_tokens_mask=True) then gives ids and mask."""
import sys

from gguf import GGUFReader
from make_golden import hf_tokenizer, save

CHATS = [
    [("user", "Hi"), ("assistant", "Hello there!")],
    [("system", "Be brief."), ("user", "What is 12 + 30?"), ("assistant", "42"), ("user", "And in German?"),
     ("assistant", "Zweiundvierzig.")],
    [("user", "Write a\nlist"), ("assistant", "- one\n- two\n\n")],
    [("user", "na\u00efve \u4f60\u597d \U0001f600?"), ("assistant", "  \u00e9t\u00e9 \U0001f642"), ("user", "ok")],
    [("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "\n\nlast")],
    [("system", ""), ("user", "call it"), ("assistant", "f(1)"), ("tool", "{\"x\": 2}"), ("assistant", "It is 2.")],
    [("assistant", "I begin."), ("user", "Go on"), ("assistant", "No.")],
]
PLAIN = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
MARKED = ("{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' and not loop.first %}"
          "{% generation %}{{message['content'] + '<|im_end|>'}}{% endgeneration %}"
          "{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}{{'\n'}}")


def main():
    tokenizer = hf_tokenizer(GGUFReader(sys.argv[1]))
    template = tokenizer.chat_template
    assert PLAIN in template, template
    cases = []
    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        marked = tokenizer.apply_chat_template(messages, chat_template=template.replace(PLAIN, MARKED), tokenize=True,
                                               return_dict=True, return_assistant_tokens_mask=True)
        plain = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        assert marked["input_ids"] == plain["input_ids"], messages
        cases.append({"messages": messages, "ids": marked["input_ids"], "mask": marked["assistant_masks"]})
    save("smollm2_masks.json", {"cases": cases})


main()
