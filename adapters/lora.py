"""LoRA: attached and saved with peft, merged at load without it.

The language model's is kept beside the checkpoint; one inside the bridge or the vision encoder,
which a checkpoint holds whole, is added to their weights when they are saved.

arXiv 2106.09685; rank-stabilised scaling (rsLoRA): arXiv 2312.03732.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from adapters.config import PartConfig
from adapters.source import read_json
from qformer.contracts import CheckpointError

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's two files
Module = TypeVar("Module", bound=nn.Module)

PREFIX = "base_model.model."  # how peft names the model it wraps

# peft imports bitsandbytes, which warns of a kernel that nobody here asked for.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def attach(
    language: Any,
    rank: int = 16,
    alpha: int | None = None,
    targets: Sequence[str] = (),
) -> list[nn.Parameter]:
    """Put a trainable LoRA on every linear layer of a LanguageModel but its head, in place.

    The rest stays frozen; at first the output does not change. Returns the new parameters.
    alpha: by default 2 * rank. The update is scaled by alpha / sqrt(rank). targets: only the layers
    whose names end so ("q_proj"). Raises CheckpointError if no layer is called so.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it; kernels it misses
    from peft import LoraConfig, get_peft_model

    names = [name for name, _ in language.model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in names):
            raise CheckpointError(
                f"lora targets={target!r}: no layer of the language model is called so; by default "
                "every linear layer is meant"
            )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,
        use_rslora=True,
        target_modules=list(targets) or "all-linear",
    )
    with warnings.catch_warnings():  # peft's calls to what transformers renamed
        warnings.simplefilter("ignore", FutureWarning)
        language.model = get_peft_model(language.model, config)
    return [p for p in language.model.parameters() if p.requires_grad]


def attach_inside(
    module: nn.Module, rank: int = 16, alpha: int | None = None, targets: Sequence[str] = ()
) -> None:
    """Put a LoRA on the linear layers inside a module, in place; its own weights rest.

    targets as for `attach`. Raises CheckpointError if no layer is called so.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, one in module.named_modules() if isinstance(one, nn.Linear)]
    wanted = tuple("." + target for target in targets) or ("",)
    names = [name for name in linear if f".{name}".endswith(wanted)]
    if not names:
        raise CheckpointError(
            f"lora targets={list(targets)}: no linear layer of the {type(module).__name__} is "
            f"called so; it has {', '.join(sorted({name.rpartition('.')[2] for name in linear}))}"
        )
    config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, use_rslora=True, target_modules=names)
    inject_adapter_in_model(config, module)


def train_alone(module: nn.Module) -> None:
    """Let the LoRA inside a module learn, and nothing else of it."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merged(module: Module) -> Module:
    """Copy a module with the LoRA inside it added to its weights, and gone."""
    from peft.tuners.lora import LoraLayer

    plain = copy.deepcopy(module)
    for name, layer in [*plain.named_modules()]:
        if isinstance(layer, LoraLayer):
            layer.merge()
            plain.set_submodule(name, layer.get_base_layer())
    return plain


def resume(language: Any, folder: Path) -> list[nn.Parameter]:
    """Put a saved LoRA on a freshly loaded LanguageModel, to train on. Returns its parameters."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            language.model = PeftModel.from_pretrained(
                language.model, str(folder), is_trainable=True
            )
    except Exception as error:  # peft and safetensors raise a dozen kinds here
        raise CheckpointError(
            f"{folder} does not open on this language model ({type(error).__name__}): copy the "
            "folder again"
        ) from error
    return [p for p in language.model.parameters() if p.requires_grad]


def save(language: Any, folder: Path, base: PartConfig | None = None) -> None:
    """Write the attached LoRA as peft's own two files, and nothing of the model. base: the model,
    by which peft's AutoPeftModelForCausalLM and its like open the LoRA; none is told without."""
    language.model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    settings = read_json(folder / SETTINGS)
    # peft tells where the model was read from, which may be a folder of that machine alone.
    settings["base_model_name_or_path"] = None if base is None else base.path
    settings["revision"] = None if base is None else base.revision
    for name, value in settings.items():  # peft's sets come in another order each time
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            settings[name] = sorted(value)
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


@torch.no_grad()
def merge(language: Any, folder: Path) -> None:
    """Add a saved LoRA to the weights of a freshly loaded LanguageModel: W + scale * B @ A.

    Raises CheckpointError if it does not fit the model, or is more than plain LoRA or rsLoRA.
    """
    from safetensors.torch import load_file

    settings = read_json(folder / SETTINGS)
    beyond = [
        name
        for name in ("use_dora", "use_qalora", "lora_bias", "modules_to_save", "alpha_pattern")
        if settings.get(name)
    ]
    if beyond or settings.get("peft_type") != "LORA" or settings.get("bias") != "none":
        raise CheckpointError(
            f"{folder} is not plain LoRA ({', '.join(beyond) or 'another kind'}): merge it into "
            "the language model with peft and save that"
        )
    try:
        weights = load_file(folder / WEIGHTS)
    except Exception:
        raise CheckpointError(
            f"{folder / WEIGHTS} is missing or damaged: copy the folder again"
        ) from None
    modules = dict(language.model.named_modules())
    for key in [key for key in weights if ".lora_A." in key]:
        name = key.removeprefix(PREFIX).partition(".lora_A.")[0]
        down = weights.pop(key)  # (rank, in)
        up = weights.pop(key.replace(".lora_A.", ".lora_B."), None)  # (out, rank)
        weight = getattr(modules.get(name), "weight", None)
        if up is None or weight is None:
            raise CheckpointError(f"{folder} does not fit the language model: no match for {name}")
        rank = len(down)
        scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
        update = scale * (up.float() @ down.float())
        if settings.get("fan_in_fan_out"):
            update = update.T
        if update.shape != weight.shape:
            raise CheckpointError(
                f"{folder} does not fit the language model: {name} is {tuple(weight.shape)}, "
                f"the LoRA {tuple(update.shape)}"
            )
        weight.copy_(weight.float() + update.to(weight.device))
    if weights:
        raise CheckpointError(f"{folder} holds more than LoRA weights, {min(weights)} for one")
