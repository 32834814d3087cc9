"""The embedded default, from random weights to a checkpoint: every phase by name, each resumable.

    frozen parts   vision, language, segmenter   (independent of one another)
    the bridge     pool -> stage1 -> stage2      (over the frozen parts)
    what it is     ablations, evaluate, report, offer, install

A phase writes into its own folder under `folder` and is skipped once that is whole.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from adapters import lora
from adapters.checkpoint import save_checkpoint, write_manifest
from adapters.config import CheckpointConfig, PartConfig, TokenizerConfig
from adapters.defaults import DEFAULTS, PAINTINGS
from adapters.fresh import fresh_language, fresh_segmenter, fresh_vision, save_frozen
from adapters.language_decoder import DecoderLanguageModel
from adapters.tokenizer import SentencePieceTokenizer, save_sentencepiece
from adapters.vision import open_vision_encoder
from qformer.bridge import Bridge
from qformer.contracts import LoupeError
from qformer.familiarity import Familiarity
from train.embedded.config import EmbeddedConfig
from train.embedded.evaluate import ask_all, evaluate, reached
from train.embedded.language import LanguageStage, train_tokenizer
from train.embedded.pool import Pool
from train.embedded.segmenter import CLICK_REACH, EVERYTHING, MEAN, STD, SegmenterStage
from train.embedded.stages import Stage1Stage, Stage2Stage
from train.embedded.vision import VisionStage
from train.loop import LoopConfig, fit
from train.states import load_trained, trained_module

# What the chat may suggest, by type; a type that misses its target is not offered.
SUGGESTIONS = {
    "picture": {
        "caption": "describe the picture",
        "count": "how many things are there?",
        "biggest": "which is the biggest?",
    },
    "region": {
        "what": "what is this?",
        "describe": "describe this",
        "beside": "what is next to it?",
        "others": "how many others share its colour?",
        "region_where": "where is this?",
        "texture": "what pattern does it have?",
    },
    "pair": {
        "bigger": "which is bigger?",
        "same_colour": "are they the same colour?",
        "same_kind": "do they have the same shape?",
        "relation": "where is {1} relative to {2}?",
    },
}
TRAIN_SEED, TEST_SEED, HELD_OUT_SEED = 1, 2, 3  # of the pools' pictures, never the same
FAMILIAR_PICTURES = 2000  # of the training pool, to know their like again


class Pipeline:
    """Runs the phases of one config in one folder. say: where progress goes."""

    def __init__(self, config: EmbeddedConfig, folder: Path, say: Callable[[str], None] = print):
        self.config, self.folder, self.say = config, folder, say
        self.parts = folder / "parts"
        folder.mkdir(parents=True, exist_ok=True)

    def _fit(self, name: str, stage, loop: LoopConfig) -> None:
        """Train, and note how long it took."""
        seconds = fit(stage, loop, self.folder / name, self.say)
        self._note(name, {"seconds": round(seconds), "steps": loop.steps})

    def _note(self, name: str, value: dict) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")

    def _start(self) -> None:
        torch.manual_seed(self.config.seed)

    # ---- the frozen parts ----------------------------------------------------------------------

    def vision(self) -> None:
        settings = self.config.vision
        self._start()
        model = fresh_vision(settings.size, settings.width, settings.layers, settings.heads)
        self._fit("vision", VisionStage(model, settings.loop.batch), settings.loop)
        half = [0.5, 0.5, 0.5]
        preprocessor = {"image_mean": half, "image_std": half, "resample": 3}
        save_frozen(model, self.parts / "vision", preprocessor)

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / "tokenizer" / "tokenizer.model"

    def tokenizer(self) -> SentencePieceTokenizer:
        if not self.tokenizer_file.exists():
            train_tokenizer(self.tokenizer_file, self.config.language.vocabulary, self.config.seed)
        return SentencePieceTokenizer(self.tokenizer_file)

    def language(self) -> None:
        settings, tokenizer = self.config.language, self.tokenizer()
        self._start()
        model = fresh_language(
            len(tokenizer), settings.width, settings.layers, settings.heads, settings.context
        )
        stage = LanguageStage(model, tokenizer, self.config.prompt, settings.loop.batch)
        self._fit("language", stage, settings.loop)
        save_frozen(model, self.parts / "language")
        save_sentencepiece(self.tokenizer_file, self.parts / "language")

    def segmenter(self) -> None:
        settings = self.config.segmenter
        self._start()
        side = settings.size
        model = fresh_segmenter(
            side, settings.patch, settings.width, settings.layers, settings.heads
        )
        stage = SegmenterStage(model, settings.loop.batch, settings.prompts)
        self._fit("segmenter", stage, settings.loop)
        model.config.everything, model.config.click_reach = EVERYTHING, CLICK_REACH
        mean, std = ([v / 255 for v in values] for values in (MEAN, STD))
        size = {"size": {"longest_edge": side}, "pad_size": {"height": side, "width": side}}
        save_frozen(model, self.parts / "segmenter", {"image_mean": mean, "image_std": std, **size})

    # ---- the bridge ----------------------------------------------------------------------------

    def pool(self, name: str = "train") -> Pool:
        """Painted pictures through the frozen encoder: "train", "test" or "held_out"."""
        count, seed, pairs = {
            "train": (self.config.pictures, TRAIN_SEED, "seen"),
            "test": (2000, TEST_SEED, "seen"),
            "held_out": (600, HELD_OUT_SEED, "held_out"),
        }[name]
        folder = self.folder / f"pool_{name}"
        if (folder / "pool.json").exists():
            return Pool(folder)
        vision = open_vision_encoder(self.parts / "vision")
        return Pool.build(folder, vision, count, 1000 * self.config.seed + seed, pairs, self.say)

    def _bridge(self, instruct: bool) -> Bridge:
        self._start()
        shape = dataclasses.replace(self.config.bridge, familiarity=False)  # it comes with _save
        if not instruct:  # stage 1 reads captions, not questions, and speaks to no language model
            shape = dataclasses.replace(shape, instruct=False, language_width=None)
        return Bridge(shape)

    def stage1(self) -> None:
        bridge = self._bridge(instruct=False)
        stage = Stage1Stage(bridge, self.tokenizer(), self.pool(), self.config.stage1.batch)
        self._fit("stage1", stage, self.config.stage1)

    def _stage2(self, start: bool, rank: int) -> tuple[Stage2Stage, DecoderLanguageModel]:
        """start: from stage 1's weights, or from random ones. rank: of the LoRA; 0 for none."""
        bridge = self._bridge(instruct=True)
        if start:
            state = trained_module(self.folder / "stage1")
            prefix = "bridge."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            rest = bridge.load_state_dict(own, strict=False)
            odd = [k for k in rest.missing_keys if not k.startswith("language_projection.")]
            if odd or rest.unexpected_keys:
                raise LoupeError(f"stage 1 does not fit the bridge: {odd or rest.unexpected_keys}")
        language = DecoderLanguageModel.open(self.parts / "language")
        with torch.no_grad():  # soft tokens start as long as the words whose places they take
            weight, words = bridge.language_projection.weight, language.model.get_input_embeddings()
            weight.mul_(words.weight.std() / (weight.std() * weight.shape[1] ** 0.5))
        if rank:
            torch.manual_seed(self.config.seed)
            lora.attach(language, rank)
        stage = Stage2Stage(
            bridge, language, self.tokenizer(), self.config.prompt, self.pool(),
            self.config.stage2.batch, self.config.passes, self.config.notes,
        )  # fmt: skip
        return stage, language

    def stage2(self) -> None:
        rank = self.config.language.lora_rank
        stage, language = self._stage2(True, rank)
        self._fit("stage2", stage, self.config.stage2)
        self._save(stage.bridge, language, rank)

    def _save(self, bridge: Bridge, language: DecoderLanguageModel, rank: int) -> None:
        if self.config.bridge.familiarity:
            bridge.familiarity = Familiarity(self.config.bridge.qformer.encoder_hidden_size)
            seen = torch.arange(min(FAMILIAR_PICTURES, self.config.pictures)).split(250)
            bridge.familiarity.fit([self.pool().image_embeds(part.tolist()) for part in seen])
        config = CheckpointConfig(
            vision=PartConfig("hf", "../vision"),
            language=PartConfig("decoder", "../language"),
            segmenter=PartConfig("sam", "../segmenter"),
            tokenizer=TokenizerConfig("../language"),
            bridge=self.config.bridge,
            prompt=self.config.prompt,
            decoding=self.config.decoding,
            lora=bool(rank),
            domain=self.config.domain,
        )
        save_checkpoint(self.parts / "loupe", config, bridge, language, torch.float16)

    # ---- what it is ----------------------------------------------------------------------------

    def ablations(self) -> None:
        """Stage 2 at a short schedule in three arms, the same questions asked of each."""
        loop = dataclasses.replace(self.config.stage2, steps=self.config.ablation_steps)
        rank = self.config.language.lora_rank
        arms = {"all": (True, rank), "without stage 1": (False, rank), "without LoRA": (True, 0)}
        results = {}
        for name, (start, lora_rank) in arms.items():
            stage, _ = self._stage2(start, lora_rank)
            self._fit(f"ablation_{name.replace(' ', '_')}", stage, loop)
            stage.pool = self.pool("test")
            results[name] = ask_all(stage, self.config.questions // 2)
        self._note("ablations", results)

    def evaluate(self) -> None:
        """In as many processes as there are cores, a thread each."""
        processes = os.cpu_count() or 1
        checkpoint, questions = self.parts / "loupe", self.config.questions
        self._note("evaluation", evaluate(checkpoint, questions, self.say, processes=processes))

    def report(self) -> None:
        from train.embedded.report import write_report

        write_report(self.folder, self.config, Path("docs/embedded.md"))

    def offer(self) -> None:
        """Let the checkpoint suggest what the evaluation found to be answered well."""
        good = reached(json.loads((self.folder / "evaluation.json").read_text()))
        file = self.parts / "loupe" / "config.json"
        settings = json.loads(file.read_text())
        settings["suggestions"] = {
            group: [text for type, text in texts.items() if type in good]
            for group, texts in SUGGESTIONS.items()
        }
        file.write_text(json.dumps(settings, indent=2) + "\n")
        write_manifest(self.parts / "loupe")

    def install(self, target: Path = DEFAULTS[PAINTINGS].folder.parent) -> None:
        """Put the trained folders where `build("paintings")` looks."""
        for part in ("vision", "language", "segmenter", "loupe"):
            shutil.rmtree(target / part, ignore_errors=True)
            shutil.copytree(self.parts / part, target / part)

    def snapshot(self) -> None:
        """A checkpoint of stage 2 as it stands, to look at while it trains."""
        rank = self.config.language.lora_rank
        stage, language = self._stage2(False, rank)
        load_trained(stage.module, trained_module(self.folder / "stage2"))
        self._save(stage.bridge, language, rank)


PHASES = (
    *("vision", "language", "segmenter"),
    *("pool", "stage1", "stage2"),
    *("ablations", "evaluate", "report", "offer", "install"),
)
