"""Attention row by row: rows that share a forward pass, computed apart, and only their own pairs of tokens.

    model.set_attn_implementation(ROWS)        # after `register()`

A mask over a whole pack is exact too, but its cost grows with the square of the pack. On a CPU each row is
one call of torch's causal attention; on a GPU all rows are one call of torch's variable-length flash
attention. Both know sliding windows. Anything else that a model wants of its attention (sinks, soft caps,
biases) is refused here, and `gpu_runner/tune/student.py` then takes the model's own way.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

ROWS = "treewright_rows"
_REFUSED = ("softcap", "s_aux", "position_bias", "cache")


class UnknownAttentionError(NotImplementedError):
    """The model asks for a kind of attention that is not computed here."""


def register() -> None:
    """Make `ROWS` a name that transformers knows; it needs no mask, whatever the positions."""
    AttentionInterface.register(ROWS, rows_attention)
    AttentionMaskInterface.register(ROWS, lambda *_args, **_options: None)


def rows_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """`query` is (1, heads, tokens, size), `key` and `value` may have fewer heads; the answer is (1, tokens,
    heads, size). `cu_seq_lens_q` are the bounds of the rows, 0 first, the number of tokens last."""
    if cu_seq_lens_q is None or query.shape[0] != 1 or attention_mask is not None or is_causal is False:
        raise UnknownAttentionError("rows are wanted as one pack with its bounds, causal and without a mask")
    if any(other.get(name) is not None for name in _REFUSED):
        raise UnknownAttentionError(f"the model's attention has one of {', '.join(_REFUSED)}")
    if query.device.type == "cuda":
        return _varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window), None
    bounds = cu_seq_lens_q.tolist()
    sizes = [end - start for start, end in pairwise(bounds)]
    queries, keys, values = (torch.split(part, sizes, 2) for part in (query, key, value))
    parts = [
        _one_row(queries[row], keys[row], values[row], scaling, dropout, sliding_window)
        for row in range(len(sizes))
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _one_row(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, window: int | None
) -> Tensor:
    tokens = query.shape[2]
    mask = None
    if window is not None and tokens > window:
        ahead = torch.arange(tokens, device=query.device)
        distance = ahead[:, None] - ahead[None, :]
        mask = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int | None,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    most = longest or int((bounds[1:] - bounds[:-1]).max())
    made = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        bounds,
        bounds,
        most,
        most,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return made.unsqueeze(0)  # type: ignore[union-attr]  # a tuple only when more is asked for
