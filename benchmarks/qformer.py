"""Our Q-Former beside transformers' Blip2QFormerModel: the same weights at BLIP-2's full size.

A question about N regions needs N + 1 passes over one picture. transformers repeats the picture
for each; ours computes its keys and values once and folds the passes into the query axis.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import compare, extra_memory
from qformer.config import QFormerConfig
from qformer.convert import from_huggingface
from qformer.qformer import QFormer

Way = Callable[[None], Tensor]


def ways(regions: int, tokens: int) -> dict[tuple[str, str], tuple[Way, Way]]:
    """(what is done, the two sides' names) -> the two sides, on the same random weights."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    torch.manual_seed(0)
    theirs = Blip2QFormerModel(Blip2QFormerConfig()).eval()
    ours = QFormer(QFormerConfig(vocab_size=0, text_feed_forward=False)).eval()
    renamed, homeless = from_huggingface(theirs.state_dict())
    if homeless:
        raise RuntimeError(f"transformers has weights that ours lacks: {homeless}")
    weights = {name.removeprefix("qformer."): tensor for name, tensor in renamed.items()}
    ours.load_state_dict(weights | {"query_tokens": ours.query_tokens.detach()})

    image_embeds = torch.randn(1, tokens, ours.config.encoder_hidden_size)
    # The picture, then regions that each cover about a fifth of its tokens.
    visible = torch.rand(regions + 1, tokens) < 0.2
    visible[0] = visible[:, 0] = True
    patch_bias = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    memory = ours.remember(image_embeds)

    def transformers(attention_mask: Tensor) -> Tensor:
        count = len(attention_mask)
        output = theirs(
            query_embeds=ours.query_tokens.expand(count, -1, -1),
            encoder_hidden_states=image_embeds.expand(count, -1, -1),
            encoder_attention_mask=attention_mask,
        )
        return output.last_hidden_state

    def loupe(patch_bias: Tensor) -> Tensor:
        return ours(ours.remember(image_embeds), patch_bias=patch_bias).query_embeds

    def remembered(patch_bias: Tensor) -> Tensor:
        return ours(memory, patch_bias=patch_bias).query_embeds

    pair = "transformers / ours"
    return {
        ("the picture alone", pair): (
            lambda _: transformers(visible[:1].long()),
            lambda _: loupe(patch_bias[:1]),
        ),
        (f"the picture and {regions} regions", pair): (
            lambda _: transformers(visible.long()),
            lambda _: loupe(patch_bias),
        ),
        (f"{regions} more regions of a picture read before", pair): (
            lambda _: transformers(visible[1:].long()),
            lambda _: remembered(patch_bias[1:]),
        ),
        (f"{regions} regions", "ours one by one / ours at once"): (
            lambda _: torch.cat([remembered(bias[None]) for bias in patch_bias[1:]]),
            lambda _: remembered(patch_bias[1:]),
        ),
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qformer", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--regions", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=257, help="image tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = ways(arguments.regions, arguments.tokens)

    if arguments.peak:  # a process of its own: one run of one side
        case, side = arguments.peak
        way = list(found.values())[case][side]
        print(json.dumps(extra_memory(lambda: way(None))))
        return

    for case, ((what, sides), (slow, fast)) in enumerate(found.items()):
        print(compare(f"{what}, {sides}", slow, fast, arguments.repeats, prepare=lambda: None))
        print(f"    largest difference of the outputs: {(slow(None) - fast(None)).abs().max():.1e}")
        peaks = [peak(case, side) for side in range(2)]
        if None not in peaks:
            print(f"    extra memory at the peak: {peaks[0]:.0f} MB against {peaks[1]:.0f} MB")


def peak(case: int, side: int) -> float | None:
    """`extra_memory` of one side, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.qformer", *sys.argv[1:]]
    command += ["--peak", str(case), str(side)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


if __name__ == "__main__":
    main()
