"""A stage-2 step of ours beside the plain way, on the same weights, pictures and captions.

Plain: transformers' Blip2ForConditionalGeneration, whose vision encoder runs at every step. Ours:
features from the cache, and logits only where the caption is. The frozen parts are of real shape
with random weights; the bridge alone trains.
"""

from __future__ import annotations

import argparse
import tempfile
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from adapters.language import answer_loss
from adapters.language_decoder import DecoderLanguageModel
from benchmarks.measure import compare
from benchmarks.stage1 import ENCODERS
from qformer.bridge import Bridge, BridgeConfig, PassRows
from qformer.config import QFormerConfig
from qformer.convert import from_huggingface
from train.features import CacheConfig, FeatureCache, Seen

DECODERS = {"opt-1.3b": (2048, 24, 32, 8192), "opt-2.7b": (2560, 32, 32, 10240)}
PICTURE = 50265  # the id whose places the soft tokens take


def plain_model(encoder: str, decoder: str) -> nn.Module:
    """A BLIP-2 of these shapes. Made empty and filled at once: its own start takes minutes."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    width, layers, heads, inner = ENCODERS[encoder]
    vision = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": inner,
    }  # fmt: skip
    language_width, language_layers, language_heads, feed_forward = DECODERS[decoder]
    language = {
        "model_type": "opt", "hidden_size": language_width, "num_hidden_layers": language_layers,
        "word_embed_proj_dim": language_width, "num_attention_heads": language_heads,
        "ffn_dim": feed_forward, "vocab_size": 50304,
    }  # fmt: skip
    bridge = {
        "encoder_hidden_size": width, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    config = Blip2Config(
        vision_config=vision, qformer_config=bridge, text_config=language, image_token_index=PICTURE
    )
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(config)
    model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.constant_(parameter, float("norm.weight" in name))
        else:
            nn.init.uniform_(parameter, -0.03, 0.03)
    for module in model.modules():  # what is no parameter was lost with the rest
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    model.tie_weights()
    model.vision_model.requires_grad_(False)
    model.language_model.requires_grad_(False)
    return model.eval()


def our_bridge(model: nn.Module, encoder: str, decoder: str) -> Bridge:
    shape = QFormerConfig(
        encoder_hidden_size=ENCODERS[encoder][0], dropout=0.0, vocab_size=0,
        text_feed_forward=False,
    )  # fmt: skip
    bridge = Bridge(
        BridgeConfig(qformer=shape, language_width=DECODERS[decoder][0], image_norm_eps=1e-6)
    )
    bridge.load_state_dict(from_huggingface(model.state_dict())[0], strict=False)
    return bridge.eval()


def stage2(encoder: str, decoder: str, batch: int, length: int, repeats: int) -> None:
    torch.manual_seed(0)
    model = plain_model(encoder, decoder)
    bridge = our_bridge(model, encoder, decoder)
    tokenizer = SimpleNamespace(eos_id=2, start_ids=[2])
    language = DecoderLanguageModel(model.language_model, tokenizer)  # type: ignore[arg-type]
    queries = bridge.config.qformer.num_queries
    pixels = torch.randn(batch, 3, 224, 224)
    captions = torch.randint(1000, 20000, (batch, length))
    opening = torch.tensor([[PICTURE] * queries + [2]]).expand(batch, -1)
    ids = torch.cat([opening, captions], dim=1)
    labels = torch.cat([torch.full_like(opening, -100), captions], dim=1)

    def plain_step(_: None) -> Tensor:
        loss = model(pixel_values=pixels, input_ids=ids, labels=labels).loss
        loss.backward()
        model.zero_grad()
        return loss.detach()

    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(CacheConfig(folder), model.vision_model)
        with torch.no_grad():  # before the last norm, which is ours: it trains
            states = model.vision_model(pixel_values=pixels, output_hidden_states=True)
        for number, row in enumerate(states.hidden_states[-1]):
            cache.put(f"{number:064d}", Seen(row, (224, 224)))

        def our_step(_: None) -> Tensor:
            found = [cache.get(f"{number:064d}") for number in range(batch)]
            embeds = torch.stack([one.image_embeds.float() for one in found if one is not None])
            rows = PassRows.whole(batch, embeds.shape[1] - 1)
            soft = bridge.project(bridge.query(bridge.remember(embeds), rows))
            start = language.embed(language.start_ids())
            prompts = [torch.cat([tokens, start]) for tokens in soft]
            answers = list(captions)
            loss = answer_loss(language.answer_logits(prompts, answers), answers, None)
            loss.backward()
            bridge.zero_grad()
            return loss.detach()

        apart = float((plain_step(None) - our_step(None)).abs())
        print(f"stage 2, ViT-{encoder} and {decoder}, {batch} pictures: losses {apart:.1e} apart")
        print(compare("whole step, plain / ours with cached features", plain_step, our_step,
                      repeats, prepare=lambda: None))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stage2", description=__doc__)
    parser.add_argument("--vision", choices=ENCODERS, default="g")
    parser.add_argument("--language", choices=DECODERS, default="opt-2.7b")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=16, help="tokens of a caption")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stage2(
        arguments.vision, arguments.language, arguments.batch, arguments.length, arguments.repeats
    )


if __name__ == "__main__":
    main()
