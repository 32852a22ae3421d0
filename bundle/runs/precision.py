"""The type that networks compute in."""

from __future__ import annotations

import torch


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type that matrix products and convolutions are computed in.

    Raises:
        ValueError: an unknown precision.
    """
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision in types:
        return types[precision]
    if precision != "auto":
        raise ValueError(f"precision is {precision!r}; it must be one of auto, bf16, fp32")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Without the instruction, bf16 on a CPU is emulated and slower than fp32.
    fast = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32
