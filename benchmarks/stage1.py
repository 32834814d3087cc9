"""A stage-1 step of ours beside the plain way, on the same weights, batch and negatives.

Plain: the vision encoder at every step, then four separate passes of transformers'
Blip2QFormerModel (pictures, texts, the matching of 3 N pairs, the captions under a causal mask).
Ours: features from the cache, keys and values once a picture, the captions on the kept prefix.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import compare
from qformer.config import QFormerConfig
from qformer.convert import to_huggingface
from qformer.losses import itc_loss, itc_similarity, itg_labels, itg_loss, itm_loss
from qformer.qformer import QFormer
from qformer.stage1 import Stage1
from train.features import CacheConfig, FeatureCache, Seen

ENCODERS = {"g": (1408, 39, 16, 6144), "l": (1024, 24, 16, 4096)}  # width, layers, heads, MLP


def vision_of(size: str) -> nn.Module:
    from transformers import Blip2VisionConfig, Blip2VisionModel

    width, layers, heads, inner = ENCODERS[size]
    config = Blip2VisionConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner,
    )  # fmt: skip
    return Blip2VisionModel(config).eval().requires_grad_(False)


class Plain(nn.Module):
    """Stage 1 by four passes of transformers' Q-Former, with our embeddings and heads."""

    def __init__(self, ours: Stage1) -> None:
        super().__init__()
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        shape = ours.qformer.config
        config = Blip2QFormerConfig(
            hidden_size=shape.hidden_size, num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads, intermediate_size=shape.intermediate_size,
            cross_attention_frequency=shape.cross_attention_frequency, vocab_size=shape.vocab_size,
            encoder_hidden_size=shape.encoder_hidden_size, use_qformer_text_input=True,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.model, self.ours = Blip2QFormerModel(config), ours
        theirs, _ = to_huggingface(ours.state_dict())
        own = {n.removeprefix("qformer."): v for n, v in theirs.items()}
        self.model.load_state_dict({n: v for n, v in own.items() if n in self.model.state_dict()})

    def words(self, ids: Tensor) -> Tensor:
        qformer = self.ours.qformer
        return qformer.word_embeddings(ids) + qformer.position_embeddings.weight[: ids.shape[1]]

    def read(self, embeds: Tensor, queries: int, image: Tensor | None, mask: Tensor) -> Tensor:
        return self.model(
            query_embeds=embeds, query_length=queries, attention_mask=mask,
            encoder_hidden_states=image,
        ).last_hidden_state  # fmt: skip

    def losses(
        self, image_embeds: Tensor, ids: Tensor, negatives: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        ours, rows, length = self.ours, *ids.shape
        queries = ours.qformer.query_tokens.expand(rows, -1, -1)
        count = queries.shape[1]
        ones = torch.ones(rows, count + length)
        seen = self.read(queries, count, image_embeds, ones[:, :count])
        told = self.read(self.words(ids), 0, None, ones[:, count:])
        row = F.normalize(ours.vision_projection(seen), dim=-1)
        text = F.normalize(ours.text_projection(told[:, 0]), dim=-1)
        same = torch.eye(rows, dtype=torch.bool)
        forth = itc_similarity(row, text) / ours.temperature
        wrong_text, wrong_row = negatives
        texts = torch.cat([ids, ids[wrong_text], ids])
        images = torch.cat([image_embeds, image_embeds, image_embeds[wrong_row]])
        pairs = torch.cat([queries.repeat(3, 1, 1), self.words(texts)], dim=1)
        matched = self.read(pairs, count, images, ones.repeat(3, 1))[:, :count]
        logits = ours.itm_head(matched).mean(1)
        opened = ids.clone()
        opened[:, 0] = ours.qformer.config.dec_id
        visible = torch.ones(count + length, count + length, dtype=torch.bool).tril()
        visible[:count, :count] = True
        both = torch.cat([queries, self.words(opened)], dim=1)
        said = self.read(both, count, image_embeds, visible.expand(rows, 1, -1, -1))[:, count:]
        words = ours.generation_head(said, ours.qformer.word_embeddings.weight)
        return {
            "itc": itc_loss(forth, forth.T, same),
            "itm": itm_loss(logits, torch.arange(3 * rows) < rows),
            "itg": itg_loss(words, itg_labels(ids, torch.ones_like(ids))),
        }


def stage1(size: str, batch: int, length: int, repeats: int, measured: str | None = None) -> None:
    """measured: "qformer" or "step", of the two comparisons one alone."""
    width = ENCODERS[size][0]
    torch.manual_seed(0)
    config = QFormerConfig(encoder_hidden_size=width, dropout=0.0)
    ours = Stage1(QFormer(config))
    plain = Plain(ours)
    vision = vision_of(size)
    pixels = torch.randn(batch, 3, 224, 224)
    ids = torch.randint(1000, 20000, (batch, length))
    ids[:, 0] = config.cls_id
    following = (torch.arange(batch) + 1) % batch
    negatives = (following, following)
    with torch.no_grad():
        image_embeds = vision(pixel_values=pixels).last_hidden_state

    def ours_step(embeds: Tensor) -> dict[str, Tensor]:
        memory = ours.qformer.remember(embeds)
        losses = ours.losses(memory, ids, torch.ones_like(ids), negatives=negatives)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        ours.zero_grad()
        return losses

    def plain_step(embeds: Tensor) -> dict[str, Tensor]:
        losses = plain.losses(embeds, ids, negatives)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        plain.zero_grad()
        return losses

    one, other = ours_step(image_embeds), plain_step(image_embeds)
    most = max(float((one[name] - other[name]).detach().abs()) for name in one)
    print(f"stage 1, ViT-{size}, {batch} pictures: the losses differ by {most:.1e} at most")
    if measured != "step":
        print(compare("Q-Former alone, plain / ours", plain_step, ours_step, repeats,
                      prepare=lambda: image_embeds))  # fmt: skip
    if measured == "qformer":
        return
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(CacheConfig(folder), vision)
        for number, row in enumerate(image_embeds):
            cache.put(f"{number:064d}", Seen(row, (224, 224)))

        def cached() -> Tensor:
            found = [cache.get(f"{number:064d}") for number in range(batch)]
            return torch.stack([one.image_embeds.float() for one in found if one is not None])

        @torch.no_grad()
        def encoded() -> Tensor:
            return vision(pixel_values=pixels).last_hidden_state

        print(compare("whole step, plain / ours with cached features",
                      lambda _: plain_step(encoded()), lambda _: ours_step(cached()), repeats,
                      prepare=lambda: None))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stage1", description=__doc__)
    parser.add_argument("--vision", choices=ENCODERS, default="g")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=32, help="tokens of a caption")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("qformer", "step"), help="one comparison of the two")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stage1(arguments.vision, arguments.batch, arguments.length, arguments.repeats, arguments.only)


if __name__ == "__main__":
    main()
