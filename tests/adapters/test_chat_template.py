"""Turns worded as a language model's own chat template does."""

import pytest
import tiny

from adapters.chat_template import chat_prompt
from adapters.language_decoder import DecoderLanguageModel
from qformer.prompt import lay_out

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant'"
    " else m.role) + '\n' + m.content + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def opened(folder, template, end):
    """An OPT whose tokenizer has a chat template and whose answers end with `end`."""
    tiny.opt(folder)
    language = DecoderLanguageModel.open(folder)
    tokenizer = language.tokenizer.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": [end]})
    tokenizer.chat_template = template
    language.stop_ids = [tokenizer.convert_tokens_to_ids(end)]
    return language


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>"), (GEMMA, "</s>")])
def test_turns_read_as_the_template_writes_them(tmp_path, template, end):
    language = opened(tmp_path, template, end)
    prompt = chat_prompt(language)
    words = language.tokenizer.tokenizer
    turns = [
        {"role": "user", "content": "what is this?"},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "and its colour?"},
    ]
    theirs = words.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def said(question, first):
        return "".join(
            piece for piece in lay_out(prompt, question, [], first=first) if isinstance(piece, str)
        )

    ours = said("what is this?", True) + "a cat" + end + said("and its colour?", False)
    assert ours == theirs.removeprefix("</s>")


def test_a_model_without_a_template_has_none(tiny_folder):
    assert chat_prompt(DecoderLanguageModel.open(tiny_folder("llama"))) is None
    assert chat_prompt(DecoderLanguageModel.open(tiny_folder("opt"))) is None
