"""Features that several tests of metrics compare."""

import torch


def correlated(count, dimensions, seed, shift=0.0, dtype=torch.float32):
    """[count, dimensions] from a spectrum that falls, mixed alike for every seed."""
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(100))
    drawn = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)) + shift
    return (drawn * torch.arange(1, dimensions + 1) ** -0.5 @ mixing + 0.5).to(dtype)
