"""A published model's full shape against transformers: memory, first and later questions, regions.

Blip2-OPT-2.7B (3.7 billion parameters) with random weights in bfloat16, in shards as the hub has
them. Each measurement runs in a process of its own, ours and theirs in turn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.ask import picture
from benchmarks.measure import peak_memory

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


def ours(folder: Path) -> dict[str, float]:
    """What a user of Loupe waits for, and the memory it took."""
    from adapters.build import build
    from qformer.contracts import Decoding

    result: dict[str, float] = {}
    decoding = Decoding(max_new_tokens=TOKENS, min_new_tokens=TOKENS)
    kept: dict[str, Any] = {}

    def load() -> None:
        kept["assistant"] = build(folder, dtype=torch.bfloat16)

    def first() -> None:
        kept["view"] = kept["assistant"].encode(picture())
        kept["talk"] = kept["view"].converse()
        list(kept["talk"].ask(QUESTIONS[0], (), decoding))

    with peak_memory() as peak:
        result["load"] = timed(load)
        result["first"] = timed(first)
    result["peak"] = peak()
    talk, view, assistant = kept["talk"], kept["view"], kept["assistant"]
    pieces = talk.ask(QUESTIONS[1], (), decoding)
    result["second"] = timed(lambda: next(pieces))
    list(pieces)
    fresh = view.converse().ask(QUESTIONS[1], (), decoding)
    result["fresh"] = timed(lambda: next(fresh))
    fresh.close()
    encoding, region = [], []
    for row in range(3):  # in turn: a busy machine slows both
        encoding.append(timed(lambda: assistant.encode(picture())))
        region_mask = torch.zeros(view.size, dtype=torch.bool)
        region_mask[20 * row : 20 * row + 180, 80:320] = True
        added = view.region(region_mask)
        region.append(timed(lambda added=added: view.soft_tokens({added.name: added})))
    result["encode"], result["region"] = statistics.median(encoding), statistics.median(region)
    return result


def theirs(folder: Path) -> dict[str, float]:
    """The same of transformers: its model, its generate, the pixels given."""
    from transformers import AutoTokenizer, Blip2ForConditionalGeneration

    result: dict[str, float] = {}
    words = AutoTokenizer.from_pretrained(folder)
    pixels = torch.nn.functional.interpolate(
        picture().permute(2, 0, 1)[None].float() / 255, (224, 224), mode="bicubic"
    ).bfloat16()
    kept: dict[str, Any] = {}

    def load() -> None:
        kept["model"] = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)

    def ask(question: str, tokens: int) -> None:
        text = words(f"Question: {question} Answer:")["input_ids"]
        kept["model"].generate(
            pixel_values=pixels, input_ids=torch.tensor([[50265] * 32 + text]), do_sample=False,
            max_new_tokens=tokens, min_new_tokens=tokens,
        )  # fmt: skip

    with peak_memory() as peak:
        result["load"] = timed(load)
        result["first"] = timed(lambda: ask(QUESTIONS[0], TOKENS))
    result["peak"] = peak()
    result["second"] = timed(lambda: ask(QUESTIONS[1], 1))
    return result


def pairs(arguments: argparse.Namespace) -> Iterator[dict[str, dict[str, float]]]:
    """Ours and theirs in turn, each in a process of its own."""
    for _ in range(arguments.repeats):
        pair = {}
        for side in ("ours", "theirs"):
            words = [sys.executable, "-m", "benchmarks.published", "--side", side]
            words += ["--folder", str(arguments.folder), "--threads", str(arguments.threads)]
            words += ["--clock", arguments.clock]
            run = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            pair[side] = json.loads(run.stdout.splitlines()[-1])
        print(json.dumps(pair), file=sys.stderr, flush=True)
        yield pair


def report(found: list[dict[str, dict[str, float]]], stored: int) -> None:
    def ratio(name: str, slow: tuple[str, str], fast: tuple[str, str], goal: str) -> None:
        values = [pair[slow[0]][slow[1]] / pair[fast[0]][fast[1]] for pair in found]
        times = [statistics.median(pair[s][k] for pair in found) for s, k in (slow, fast)]
        print(
            f"{name}: {statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f}),"
            f" goal {goal}; {times[0]:.2f} s against {times[1]:.2f} s"
        )

    for side in ("ours", "theirs"):
        peaks = [pair[side]["peak"] * 2**20 / stored for pair in found]
        print(
            f"{side}: peak of load and one question, x the weights' {stored / 1e9:.2f} GB: "
            f"{statistics.median(peaks):.3f} ({min(peaks):.3f}-{max(peaks):.3f}), goal 1.25"
        )
    ratio("first question, ours / theirs", ("ours", "first"), ("theirs", "first"), "<= 1.1")
    ratio("second question to its first token, theirs / ours",
          ("theirs", "second"), ("ours", "second"), ">= 5")  # fmt: skip
    ratio("the same in a new conversation, theirs / ours",
          ("theirs", "second"), ("ours", "fresh"), "none")  # fmt: skip
    ratio(
        "an added region / encoding the picture", ("ours", "region"), ("ours", "encode"), "<= 0.1"
    )
    ratio("loading, ours / theirs", ("ours", "load"), ("theirs", "load"), "none")


def main() -> None:
    global clock
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the 7.5 GB are written,"
                        " if they are not there yet")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="processor: this"
                        " process's own seconds on all threads, where others keep the machine or"
                        " its disk busy (%(default)s)")  # fmt: skip
    parser.add_argument("--remove", action="store_true", help="remove the folder at the end")
    parser.add_argument("--small", action="store_true", help="a small shape: does it run at all?")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = CLOCKS[arguments.clock]
    if arguments.side:
        side = {"ours": ours, "theirs": theirs}[arguments.side]
        print(json.dumps(side(arguments.folder)))
        return
    if not arguments.folder.exists():
        make(arguments.folder, arguments.small)
    stored = sum(file.stat().st_size for file in arguments.folder.glob("*.safetensors"))
    report(list(pairs(arguments)), stored)
    if arguments.remove:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
