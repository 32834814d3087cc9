"""A published model's full shape against transformers: memory, first and later questions, regions.

Blip2-OPT-2.7B (3.7 billion parameters) with random weights in bfloat16, in shards as the hub has
them. Loading and memory are measured in processes of their own; questions in one process that has
both models over the same mapped files and asks them in turn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from adapters.build import build
from benchmarks.ask import picture
from benchmarks.measure import peak_memory
from qformer.contracts import Decoding

QUESTIONS = ("what is on the table?", "what colour is the largest thing?")
TOKENS = 10  # of an answer
SHARD = 1_000_000_000
LANGUAGE = {
    "model_type": "opt", "architectures": ["OPTForCausalLM"], "vocab_size": 50304,
    "hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240, "num_hidden_layers": 32,
    "num_attention_heads": 32, "eos_token_id": 50118,
}  # fmt: skip
SMALL = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "num_hidden_layers": 2}


def make(folder: Path, small: bool = False) -> None:
    """The whole folder; small: a shape that only shows that the benchmark runs."""
    from safetensors.torch import save_file
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    language = LANGUAGE | (SMALL | {"num_attention_heads": 2} if small else {})
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
              "num_attention_heads": 2} if small else None  # fmt: skip
    config = Blip2Config(
        text_config=language, image_token_index=50265, vision_config=vision,
        qformer_config={"encoder_hidden_size": 64} if small else None,
    )  # fmt: skip
    config.architectures, config.dtype = ["Blip2ForConditionalGeneration"], torch.bfloat16
    with torch.device("meta"):
        shapes = [(n, p.shape) for n, p in Blip2ForConditionalGeneration(config).named_parameters()]
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    shards: list[dict[str, torch.Tensor]] = []
    where: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16()

    def flush() -> None:
        file = f"model-{len(shards) + 1:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(shard, file))
        shards.append({})
        shard.clear()

    for index, (name, shape) in enumerate(shapes):
        if "norm" in name:
            shard[name] = torch.full(shape, float(name.endswith("weight")), dtype=torch.bfloat16)
        else:  # noise cut from one long piece, from a place of its own
            count, start = shape.numel(), 977 * index
            repeats = -(-(start + count) // len(noise))
            shard[name] = noise.repeat(repeats)[start : start + count].view(shape).clone()
        if sum(value.nbytes for value in shard.values()) > SHARD:
            flush()
    flush()
    told = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(told))
    settings = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    tokenizer(folder)


def tokenizer(folder: Path) -> None:
    """Whole words, a word for each id, so that any answer can be read; </s> opens a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    asked = " ".join([*QUESTIONS, "Question: Answer:"]).split()
    names = ["<pad>", "</s>", "<unk>", *dict.fromkeys(asked)]
    names += [f"word{index}" for index in range(len(names), LANGUAGE["vocab_size"])]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="</s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
clock = CLOCKS["wall"]


def timed(run: Any) -> float:
    start = clock()
    run()
    return clock() - start


class Ours:
    """What a user of Loupe waits for."""

    decoding = Decoding(max_new_tokens=TOKENS, min_new_tokens=TOKENS)

    def __init__(self, folder: Path):
        self.assistant = build(folder, dtype=torch.bfloat16)

    def first(self, image: torch.Tensor) -> None:
        self.view = self.assistant.encode(image)
        self.talk = self.view.converse()
        list(self.talk.ask(QUESTIONS[0], (), self.decoding))

    def second(self) -> None:
        """To the first word of the answer, in the same conversation."""
        next(self.talk.ask(QUESTIONS[1], (), self.decoding))

    def fresh(self) -> None:
        """The same in a conversation of its own."""
        next(self.view.converse().ask(QUESTIONS[1], (), self.decoding))

    def encode(self, image: torch.Tensor) -> None:
        self.assistant.encode(image)

    def add(self, row: int) -> Callable[[], object]:
        """A region that begins in this row, to be read."""
        region_mask = torch.zeros(self.view.size, dtype=torch.bool)
        region_mask[row : row + 180, 80:320] = True
        region = self.view.region(region_mask)
        return lambda: self.view.soft_tokens({region.name: region})


class Theirs:
    """The same of transformers: its model, its generate, the pixels given."""

    def __init__(self, folder: Path):
        from transformers import AutoTokenizer, Blip2ForConditionalGeneration

        self.words = AutoTokenizer.from_pretrained(folder)
        kind = Blip2ForConditionalGeneration
        self.model = kind.from_pretrained(folder, dtype=torch.bfloat16)

    def first(self, image: torch.Tensor, question: str = QUESTIONS[0], tokens: int = TOKENS):
        self.pixels = torch.nn.functional.interpolate(
            image.permute(2, 0, 1)[None].float() / 255, (224, 224), mode="bicubic"
        ).bfloat16()
        self.ask(question, tokens)

    def second(self) -> None:
        self.ask(QUESTIONS[1], 1)

    def ask(self, question: str, tokens: int) -> None:
        text = self.words(f"Question: {question} Answer:")["input_ids"]
        self.model.generate(
            pixel_values=self.pixels, input_ids=torch.tensor([[50265] * 32 + text]),
            do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens,
        )  # fmt: skip


SIDES = {"ours": Ours, "theirs": Theirs}


def alone(side: str, folder: Path) -> dict[str, float]:
    """Load and the first question in a process that does nothing else, and the memory they took."""
    result: dict[str, float] = {}
    kept: list[Any] = []
    with peak_memory() as peak:
        result["load"] = timed(lambda: kept.append(SIDES[side](folder)))
        result["first"] = timed(lambda: kept[0].first(picture()))
    result["peak"] = peak()
    return result


def together(folder: Path, rounds: int) -> Iterator[dict[str, float]]:
    """Both over the same mapped files, in turn, so that a busy machine slows both: what each round
    took, on a picture of its own. The first round reads the files and is left out."""
    ours, theirs = Ours(folder), Theirs(folder)
    for turn in range(rounds + 1):
        image = picture().roll(7 * turn, 0)
        found = {
            "ours": timed(lambda image=image: ours.first(image)),
            "theirs": timed(lambda image=image: theirs.first(image)),
            "second": timed(ours.second),
            "their_second": timed(theirs.second),
            "fresh": timed(ours.fresh),
            "encode": timed(lambda image=image: ours.encode(image)),
            "region": timed(ours.add(10 * turn)),
        }
        if turn:
            yield found


def process(arguments: argparse.Namespace, side: str) -> list[dict[str, float]]:
    """What a process of its own says of a side."""
    words = [sys.executable, "-m", "benchmarks.published", "--side", side]
    words += ["--folder", str(arguments.folder), "--threads", str(arguments.threads)]
    words += ["--rounds", str(arguments.rounds), "--clock", arguments.clock]
    run = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    print(run.stdout, file=sys.stderr, end="", flush=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def report(found: dict[str, list[dict[str, float]]], stored: int) -> None:
    def ratio(name: str, above: list[float], below: list[float], goal: str) -> None:
        values = [one / other for one, other in zip(above, below, strict=True)]
        print(
            f"{name}: {statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f}),"
            f" goal {goal}; {statistics.median(above):.2f} s against"
            f" {statistics.median(below):.2f} s"
        )

    def of(side: str, name: str) -> list[float]:
        return [one[name] for one in found[side]]

    for side in SIDES:
        peaks = [peak * 2**20 / stored for peak in of(side, "peak")]
        print(
            f"{side}: peak of load and one question, x the weights' {stored / 1e9:.2f} GB: "
            f"{statistics.median(peaks):.3f} ({min(peaks):.3f}-{max(peaks):.3f}), goal 1.25"
        )
    turns = {name: of("together", name) for name in found["together"][0]}
    ratio("first question, ours / theirs", turns["ours"], turns["theirs"], "<= 1.1")
    ratio("second question to its first token, theirs / ours",
          turns["their_second"], turns["second"], ">= 5")  # fmt: skip
    ratio("the same in a new conversation, theirs / ours",
          turns["their_second"], turns["fresh"], "none")  # fmt: skip
    ratio("an added region / encoding the picture", turns["region"], turns["encode"], "<= 0.1")
    ratio("loading, ours / theirs", of("ours", "load"), of("theirs", "load"), "none")
    started = {side: [a + b for a, b in zip(of(side, "load"), of(side, "first"), strict=True)]
               for side in SIDES}  # fmt: skip
    ratio("loading and a first question, ours / theirs",
          started["ours"], started["theirs"], "none")  # fmt: skip


def main() -> None:
    global clock
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the 7.5 GB are written,"
                        " if they are not there yet")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="processes of each side, for"
                        " loading and memory (%(default)s)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="questions of each side in turn, in"
                        " one process (%(default)s)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="processor: this"
                        " process's own seconds on all threads, where others keep the machine or"
                        " its disk busy (%(default)s)")  # fmt: skip
    parser.add_argument("--remove", action="store_true", help="remove the folder at the end")
    parser.add_argument("--small", action="store_true", help="a small shape: does it run at all?")
    parser.add_argument("--side", choices=[*SIDES, "together"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = CLOCKS[arguments.clock]
    if arguments.side:
        folder, side = arguments.folder, arguments.side
        for found in [alone(side, folder)] if side in SIDES else together(folder, arguments.rounds):
            print(json.dumps(found), flush=True)
        return
    if not arguments.folder.exists():
        make(arguments.folder, arguments.small)
    stored = sum(file.stat().st_size for file in arguments.folder.glob("*.safetensors"))
    found: dict[str, list[dict[str, float]]] = {side: [] for side in (*SIDES, "together")}
    for _ in range(arguments.repeats):
        for side in SIDES:
            found[side] += process(arguments, side)
    found["together"] = process(arguments, "together")
    report(found, stored)
    if arguments.remove:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
