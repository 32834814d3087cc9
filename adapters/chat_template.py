"""The wording of turns, out of the chat template that a language model was tuned on."""

from __future__ import annotations

from typing import Any

from qformer.prompt import PromptConfig

ASKED, SAID, THEN = "loupeasked", "loupesaid", "loupethen"  # words no template holds


def chat_prompt(language: Any) -> PromptConfig | None:
    """The PromptConfig that puts questions as the chat template of a LanguageModel's tokenizer
    does; None where it has none.

    What opens a sequence (start ids) and ends an answer (the model writes it itself) is left out.
    """
    tokenizer: Any = getattr(language.tokenizer, "tokenizer", None)
    if getattr(tokenizer, "chat_template", None) is None:
        return None

    def text(*contents: str) -> str:
        roles = ("user", "assistant", "user")
        turns = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    before, _, after = text(ASKED).partition(ASKED)
    _, _, rest = text(ASKED, SAID, THEN).partition(SAID)
    between, _, _ = rest.partition(THEN)
    before = before.removeprefix(tokenizer.decode(language.tokenizer.start_ids))
    for end in tokenizer.convert_ids_to_tokens(language.stop_ids):
        between = between.removeprefix(end)
    return PromptConfig(
        start=before,
        region="{name}: {tokens} ",
        question="{question}" + after,
        turn=between,
        caption="Describe the picture.",
        caption_question="{question}" + after,
    )
