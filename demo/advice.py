"""Whether a model knows pictures of this kind, and which default knows them better."""

from __future__ import annotations

from demo.models import PAINTINGS, PHOTOS
from qformer.view import View


def advice(view: View, model: str) -> tuple[str, str] | None:
    """What to say of the picture, and the default that knows its kind better, "" where none does;
    None where there is nothing to say. model: the name of the default that reads it, or "".

    A painting is told from a photo by what the paintings' model knows. Raises CheckpointError.
    """
    from adapters.painted import is_painted

    if model == PHOTOS and is_painted(view.image):
        return "This looks like a painting, which the paintings' model knows better.", PAINTINGS
    if view.familiar:
        return None
    says = f"This picture does not look like what this model knows: {view.assistant.config.domain}."
    if model == PAINTINGS:
        return f"{says} Answers about it are guesses. For photos there is another model.", PHOTOS
    return f"{says} Answers about it are guesses: choose another model.", ""
