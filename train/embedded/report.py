"""docs/embedded.md, written from what a run of the pipeline measured."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from pathlib import Path

from train.embedded.config import EmbeddedConfig
from train.embedded.evaluate import TARGETS

MEANINGS = {
    "caption": "describe the picture", "count": "how many red stars are there?",
    "exist": "is there a red star?", "biggest": "which is the biggest?",
    "where": "where is the red star?", "what": "what is this?", "colour": "what colour is it?",
    "kind": "what shape is it?", "texture": "what is its texture?", "size": "how big is it?",
    "describe": "describe this", "verify": "is this a star?", "beside": "what is left of it?",
    "others": "how many others share its colour?", "region_where": "where is this?",
    "bigger": "which is bigger?", "same_colour": "same colour?", "same_kind": "same shape?",
    "relation": "where is region 1 relative to region 2?", "follow_up": "and its colour?",
}  # fmt: skip


def write_report(folder: Path, config: EmbeddedConfig, target: Path) -> None:
    """Raises FileNotFoundError if the evaluation has not run; ablations may be absent."""
    result = json.loads((folder / "evaluation.json").read_text())
    lines = [
        "# The embedded default",
        "",
        f"What it knows: {config.domain}, namely circles, squares, triangles, stars, hearts,",
        "rings, houses, trees, cars, fish, flowers and cats in eight colours; solid, striped or",
        "dotted; small, medium or large; one to six on a quiet background. Photos are beyond it;",
        "it says so. `make embedded` retrains all of it from its seed and writes this page.",
        "",
        "## How often it is right",
        "",
        f"Fresh pictures ({result['pictures']}), regions by one click each through the embedded",
        "segmenter, words as people type them, exact answers. *No region*: the same question",
        "without its regions. *Majority*: the share of the most frequent right answer. A type",
        "below its target is not offered as a suggestion in the chat.",
        "",
        "| type | for example | right | target | no region | majority | asked |",
        "|---|---|---|---|---|---|---|",
    ]
    for type, row in result["types"].items():
        bare = "" if row["without_regions"] is None else f"{row['without_regions']:.2f}"
        goal = f"{TARGETS[type]:.2f}" if type in TARGETS else ""
        mark = "" if row["right"] >= TARGETS.get(type, 0) else " (missed)"
        lines.append(
            f"| {type} | {MEANINGS[type]} | {row['right']:.3f}{mark} | {goal} | {bare} "
            f"| {row['majority']:.2f} | {row['asked']} |"
        )
    lines += ["", "| measured | reached | target |", "|---|---|---|"]
    overlap, held = defaultdict(float, result["segmenter"]), result["held_out"]
    for name, reached, goal in (
        ("caption, F1 of (colour, kind) pairs named", result["caption_f1"], "0.90"),
        ("segmenter, mean IoU of one click", overlap["click, seen"], "0.88"),
        ("segmenter, mean IoU of a box", overlap["box, seen"], "0.92"),
        ("segmenter, one click, beside held-out pairs", overlap["click, held out"], ""),
        ("what, on colour-kind pairs never seen in any phase", held["what"], "0.85"),
        ("colour, on those pairs", held["colour"], ""),
        ("kind, on those pairs", held["kind"], ""),
    ):
        missed = " (missed)" if goal and reached < float(goal) else ""
        lines.append(f"| {name} | {reached:.3f}{missed} | {goal} |")
    lines += ["", "## What each part is worth", ""]
    if (folder / "ablations.json").exists():
        arms = json.loads((folder / "ablations.json").read_text())
        lines += [
            f"Stage 2 for {config.ablation_steps} steps in each arm (the full run takes",
            f"{config.stage2.steps}), the same questions over cached features and given regions,",
            "same seed.",
            "",
            "| type | " + " | ".join(arms) + " |",
            "|---|" + "---|" * len(arms),
        ]
        for type in next(iter(arms.values())):
            shares = [f"{arm[type]:.2f}" for arm in arms.values()]
            lines.append(f"| {type} | " + " | ".join(shares) + " |")
        means = [sum(arm.values()) / len(arm) for arm in arms.values()]
        lines.append("| mean | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
        lines += ["", "Region tokens dropped: the column *no region* above."]
    else:
        lines.append("Not measured in this run: `loupe train embedded --only ablations`.")
    lines += ["", "## How it was made", "", "| phase | steps | time |", "|---|---|---|"]
    for phase in ("vision", "language", "segmenter", "stage1", "stage2"):
        note = json.loads((folder / f"{phase}.json").read_text())
        lines.append(f"| {phase} | {note['steps']} | {note['seconds'] / 60:.0f} min |")
    lines += [
        "",
        f"On {platform.machine()}, two CPU cores shared by two phases at a time, one thread each,",
        "in float32 where the processor has no units for bfloat16; wall time, pauses included.",
        *RECIPE,
    ]
    old = target.read_text() if target.exists() else ""
    kept = old[old.index(REMARKS) :] if REMARKS in old else ""  # written by hand
    target.write_text("\n".join(lines) + "\n" + kept)


REMARKS = "\n## Remarks"  # this section of the page outlives a new report
RECIPE = (
    "",
    "- **Scenes** (`train/scenes/`) are painted with varied outlines, colours, textures, strokes,",
    "  backgrounds, smoothing and JPEG quality, at any aspect. Twelve colour-kind pairs are held",
    "  out of every phase.",
    "- **Vision**: a hybrid ViT (`DPTModel`: a small ResNet stem, three transformer blocks, 257",
    "  tokens at 128 px) under dense labels: each patch names kind, colour, texture, size, box and",
    "  whether it holds an object's middle, and so does the mean over each object. Textures come",
    "  in gradually; a second round adds places: each patch's own and its object's, in the waves",
    "  in which a region's geometry enters the Q-Former.",
    "- **Language**: a four-layer Llama with a sentencepiece tokenizer, on dialogues in which",
    "  notes stand where soft tokens will stand: what an attentive reader who knows the question",
    "  would write down; of what is counted or looked for, a yes or a no for each object from left",
    "  to right. The colour of an object is misheard now and then, so that its kind is not",
    "  concluded from it.",
    "- **Segmenter**: a SamModel; focal and dice 20:1, IoU by MSE, best of three masks for a",
    "  click, then a correcting click with the logits fed back.",
    "- **Stage 1**: ITC, ITM and ITG on captions of pictures and descriptions of regions in one",
    "  batch.",
    "- **Stage 2**: the question enters the Q-Former, with each region's geometry on its name;",
    "  a dozen questions a picture; the language model is frozen under a rank-16 rsLoRA. Pictures",
    "  grow from two objects to six. Each soft token is pulled towards a word of the notes that",
    "  the language model learned to read: at first that alone is learned and the language model",
    "  is not read, which is twice as fast; then the notes fade to nothing.",
    "",
    "The settings are in [train/configs/embedded.toml](../train/configs/embedded.toml).",
)
