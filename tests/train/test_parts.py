"""The parts a recipe starts from, and what their checkpoint says."""

import tiny
import transformers

from adapters.checkpoint import load_config
from adapters.registry import LANGUAGE_MODELS
from train.parts import prompt_of

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_new_language_model_is_asked_as_its_chat_template_has_it(
    recipe_of, tiny_folder, tmp_path
):
    folder = tmp_path / "chat"
    folder.mkdir()
    tiny.opt(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    words.chat_template = CHATML
    words.save_pretrained(folder)
    language = LANGUAGE_MODELS["decoder"](folder)
    kept = load_config(tiny_folder("loupe"))
    new = f'start.language={{kind="decoder", path="{folder}"}}'
    prompt = prompt_of(recipe_of("stage2", new), kept, language)
    assert prompt.start == "<|im_start|>user\n"
    assert prompt.question == "{question}<|im_end|>\n<|im_start|>assistant\n"
    own = recipe_of("stage2", new, 'prompt.question="Q: {question} A:"')
    assert prompt_of(own, kept, language).question == "Q: {question} A:"
    known = recipe_of("stage2")  # the checkpoint's own language model, as it was asked before
    assert prompt_of(known, kept, language) == kept.prompt
    plain = LANGUAGE_MODELS["decoder"](tiny_folder("opt"))  # without a template
    assert prompt_of(recipe_of("stage2", new), kept, plain) == kept.prompt
