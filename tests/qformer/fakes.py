"""Small real parts in torch alone: they keep every promise of qformer/contracts.py."""

import torch
import torch.nn.functional as F
from torch import nn

from qformer.assistant import Assistant, AssistantConfig
from qformer.bridge import Bridge, BridgeConfig
from qformer.config import QFormerConfig
from qformer.contracts import Capabilities, Decoding, Segmentation
from qformer.prompt import PromptConfig
from qformer.proposals import Proposal
from qformer.regions import RegionConfig


class TinyVision(nn.Module):
    """Patches and their mean, each patch also told its place and what the picture is like."""

    image_size, grid, leading_tokens, width = (24, 32), (6, 8), 1, 24
    encoded = 0  # pictures, to see what is cached

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, self.width, 4, 4)
        self.place = nn.Parameter(torch.randn(48, self.width))

    def preprocess(self, image):
        pixels = image.permute(2, 0, 1).float()[None] / 127.5 - 1
        return F.interpolate(pixels, self.image_size, mode="bilinear", antialias=True)[0]

    def encode(self, pixel_values):
        self.encoded += len(pixel_values)
        patches = 3 * self.patch(pixel_values).flatten(2).transpose(1, 2) + self.place
        mean = patches.mean(1, keepdim=True)
        return torch.cat([mean, patches + mean], dim=1)


class TinyPrefix:
    def __init__(self, width):
        self.keys = self.values = torch.zeros(0, width)

    def __len__(self):
        return len(self.keys)

    def crop(self, length):
        self.keys, self.values = self.keys[:length], self.values[:length]


class TinyLanguage(nn.Module):
    """One causal attention layer with a real key/value prefix; id 1 is EOS, 2 opens a sequence."""

    width, context, eos_id = 20, 400, 1

    def __init__(self, keeps_prefix=True):
        super().__init__()
        self.keeps_prefix = keeps_prefix
        self.words = nn.Parameter(torch.randn(64, self.width))
        self.qkv = nn.Linear(self.width, 3 * self.width)
        self.head = nn.Linear(self.width, 64)
        nn.init.normal_(self.qkv.weight, std=0.3)
        self.read = 0  # positions, to see what the prefix saves
        self.fail_after = None

    def tokenize(self, text):
        return torch.tensor([3 + ord(letter) % 60 for letter in text], dtype=torch.long)

    def start_ids(self):
        return torch.tensor([2])

    def embed(self, input_ids):
        return self.words[input_ids]

    def decode(self, ids):
        return "".join(f" w{token}" for token in ids)

    def new_prefix(self):
        return TinyPrefix(self.width) if self.keeps_prefix else None

    def step(self, embeds, prefix):
        self.read += len(embeds)
        place = torch.arange(len(prefix), len(prefix) + len(embeds))[:, None]
        states = embeds + torch.sin(place / 3 ** torch.arange(self.width)[None] * 2)
        queries, keys, values = self.qkv(states).chunk(3, -1)
        prefix.keys = torch.cat([prefix.keys, keys])
        prefix.values = torch.cat([prefix.values, values])
        causal = torch.arange(len(prefix))[None] <= place
        context = F.scaled_dot_product_attention(
            queries[None], prefix.keys[None], prefix.values[None], causal[None]
        )[0]
        return self.head(states + 3 * context)[-1]

    def generate(self, inputs_embeds, decoding, prefix=None, answer_stop=None):
        own = TinyPrefix(self.width) if prefix is None else prefix
        before, whole = len(own), False
        try:
            logits = self.step(inputs_embeds, own)
            for count in range(decoding.max_new_tokens):
                if self.fail_after == count:
                    raise RuntimeError("out of memory")
                token = int(logits.argmax())
                logits = self.step(self.embed(torch.tensor([token])), own)
                if token == self.eos_id:
                    break
                yield token
            whole = True
        finally:
            if not whole:
                own.crop(before)


class Scripted(TinyLanguage):
    """Writes given pieces of text."""

    pieces = ()

    def decode(self, ids):
        joined = b"".join(self.pieces[token] for token in ids)
        return joined.decode(errors="replace")

    def generate(self, inputs_embeds, decoding, prefix=None, answer_stop=None):
        self.step(inputs_embeds, prefix)
        yield from range(len(self.pieces))
        self.step(self.embed(torch.arange(len(self.pieces))), prefix)


class TinySegmenter(nn.Module):
    """A square of 8 pixels around the first point, the box itself, or nothing on black."""

    encoded = 0
    capabilities = Capabilities()

    def encode(self, image):
        self.encoded += 1
        return image

    def everything(self, image, settings=None, progress=None, cancel=None, embedding=None):
        assert embedding is not None  # the picture is never encoded a second time
        return [Proposal.of((embedding > 128).any(-1), 0.8)]

    def find(self, embedding, text, exemplars=(), threshold=0.3):
        return [Proposal.of((embedding > 128).all(-1), 0.7)]

    def segment(self, embedding, prompt):
        height, width = embedding.shape[:2]
        region_mask = torch.zeros(1, height, width, dtype=torch.bool)
        if prompt.points:
            x, y, _ = prompt.points[0]
            box = (max(0, int(x) - 4), max(0, int(y) - 4), int(x) + 4, int(y) + 4)
        else:
            box = prompt.box
        x0, y0, x1, y1 = (int(value) for value in box)
        region_mask[0, y0:y1, x0:x1] = True
        region_mask &= (embedding > 0).any(-1)
        return Segmentation(region_mask, torch.tensor([0.9]), torch.zeros(1, 4, 4), prompt)


def letters(text):
    """A TextTokenizer."""
    return [2 + ord(letter) % 30 for letter in text]


def tiny_assistant(
    composer="global+regions",
    instruct=False,
    trainable=False,
    language=TinyLanguage,
    segmenter=True,
    **prompt,
):
    """A random assistant, the same for the same arguments."""
    torch.manual_seed(0)
    qformer = QFormerConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        intermediate_size=48,
        encoder_hidden_size=TinyVision.width,
        num_queries=5,
        vocab_size=40,
        max_positions=64,
        cls_id=1,
        dec_id=39,
    )
    config = BridgeConfig(
        qformer, RegionConfig(trainable=trainable), TinyLanguage.width, instruct, max_instruction=48
    )
    bridge = Bridge(config)
    for parameter in bridge.parameters():  # far from BERT's start, where all pictures look alike
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return Assistant(
        TinyVision(),
        bridge,
        language(),
        TinySegmenter() if segmenter else None,
        AssistantConfig(PromptConfig(composer=composer, **prompt), Decoding(max_new_tokens=6)),
        letters if instruct else None,
    )


def picture(height=48, width=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
