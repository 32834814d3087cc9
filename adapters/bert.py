"""A Q-Former that starts from a BERT, as BLIP-2's does (arXiv 2301.12597, section 3.1).

The layers' self-attention and the text's feed-forward are BERT's; the queries' feed-forward starts
as a copy of it. Cross-attention and queries stay as they were drawn. So text is learned first, then
pictures: the other way round than VLMo (arXiv 2111.02358), whose two modality experts these
feed-forwards are like. VLMo learns images first, then text with its self-attention frozen.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adapters.folder import listed
from adapters.source import Source
from adapters.weights import WeightFiles
from qformer.contracts import CheckpointError
from qformer.convert import from_lavis
from qformer.qformer import QFormer
from qformer.stage1 import Stage1

DRAWN = ("qformer.query_tokens", ".cross_attention.")  # BERT has none


@torch.no_grad()
def start_from_bert(qformer: QFormer, source: Source, heads: Stage1 | None = None) -> None:
    """Put the weights of a BERT folder or hub id into `qformer`, and those of its language-model
    head into stage 1's. Words that BERT lacks ([DEC]) keep their start. Raises CheckpointError for
    a BERT of another shape."""
    files = WeightFiles(source)
    weights = renamed(files.read(files))
    own = {f"qformer.{name}": value for name, value in qformer.state_dict(keep_vars=True).items()}
    head = {} if heads is None else {
        f"generation_head.{n}": v
        for n, v in heads.generation_head.state_dict(keep_vars=True).items()
    }  # fmt: skip
    missing = []
    for name, target in (own | head).items():
        if any(part in name for part in DRAWN):
            continue
        value = weights.get(name)
        if value is None and ".query_feed_forward." in name:
            value = weights.get(name.replace(".query_", ".text_"))
        if value is None:
            if name not in head:  # a BERT without its head is enough
                missing.append(name)
            continue
        fits = target.shape[1:] == value.shape[1:]
        grows = fits and name.endswith(("word_embeddings.weight", "generation_head.bias"))
        if target.shape != value.shape and not (grows and len(target) > len(value)):
            raise CheckpointError(
                f"{source} is another BERT than [bridge.qformer] says: {name} is "
                f"{tuple(value.shape)} there and {tuple(target.shape)} here"
            )
        target[: len(value)] = value.to(target)
    if missing:
        raise CheckpointError(
            f"{source} is no BERT of this many layers: it lacks {listed(missing)}"
        )


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BERT's weights by our names; what the Q-Former has no place for (token types, pooler) is
    left out, as in LAVIS."""
    theirs = {}
    for name, value in state.items():
        plain = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        plain = plain.replace("LayerNorm.beta", "LayerNorm.bias")
        if not plain.startswith(("bert.", "cls.")):
            plain = f"bert.{plain}"
        theirs[f"Qformer.{plain}"] = value
    return from_lavis(theirs)[0]
