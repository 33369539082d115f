"""LoRA for previews: small adapters beside frozen weights (Hu et al. 2021, arXiv 2106.09685), through peft.

The adapters sit inside the student's own layers, so the loop trains them like any other weights. At the end
they are merged into the weights and leave nothing behind: what is saved is an ordinary model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALPHA_OVER_RANK = 2  # the scale of the adapters' output; the paper's own code takes 1 to 2


class AdapterError(RuntimeError):
    """LoRA was asked for and cannot be had; the message says what to install."""


def add_adapters(model: Any, rank: int) -> None:
    """Freeze every weight and add adapters to every linear layer but the head, in place."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise AdapterError("LoRA needs peft: pip install 'treewright[lora]'") from error
    for parameter in model.parameters():
        parameter.requires_grad = False
    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA_OVER_RANK * rank,
        lora_dropout=0.0,  # dropout would make a packed and a padded batch differ
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model)


def merge(student: Any, rank: int, adapters: Mapping[str, Any]) -> Any:
    """`student`, freshly loaded, with the trained adapters folded into its weights in fp32."""
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA_OVER_RANK * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    dtype = student.dtype
    tuner = LoraModel(student.float(), {"default": config}, "default")
    missing = student.load_state_dict(adapters, strict=False).unexpected_keys
    if missing:
        raise AdapterError(f"{missing[0]} of the adapters has no place in the student")
    return tuner.merge_and_unload().to(dtype)
