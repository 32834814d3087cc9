"""Language models in 8 or 4 bits, by bitsandbytes: LLM.int8() (arXiv 2208.07339), NF4 (2305.14314).

Only the linear layers of the language model are quantised; its embeddings, its head, the vision
encoder and the bridge stay as they are.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from qformer.contracts import CheckpointError

ROWS = 32  # a 4-bit layer's number of outputs must be a multiple


def settings(kind: str, dtype: torch.dtype) -> Any:
    """transformers' quantization_config. Raises CheckpointError without bitsandbytes."""
    require(f"--quantize {kind}", "bitsandbytes", "accelerate")
    from transformers import BitsAndBytesConfig

    # It tells of each cast it makes, and of kernels nobody here can install.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def require(what: str, *libraries: str) -> None:
    """Raises CheckpointError where a library is not installed."""
    for library in libraries:
        if find_spec(library) is None:
            raise CheckpointError(
                f'{what} needs {library}: pip install "loupe-assistant[quantize]"'
            )


def guard(model: nn.Module) -> None:
    """Keep 4-bit weights as they are on processors with AVX512-BF16.

    There bitsandbytes (0.50) repacks them in place at the first forward pass, and what is saved or
    merged afterwards is corrupt. Raises CheckpointError for a layer it cannot hold.
    """
    for name, module in model.named_modules():
        if type(module).__name__ != "Linear4bit":
            continue
        if module.out_features % ROWS:
            raise CheckpointError(
                f"{name} has {module.out_features} outputs, and 4 bits want a multiple of {ROWS}: "
                "use --quantize int8"
            )
        module.support_avx512bf16_for_cpu = False
