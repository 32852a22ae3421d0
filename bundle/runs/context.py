"""What all stages of a run share: where it writes, on what it computes, its seed, and how often it saves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from bundle.runs.checks import check_counts
from bundle.runs.folder import RunFolder
from bundle.runs.precision import autocast_dtype
from bundle.runs.workflow import by_name


@dataclasses.dataclass
class RunContext:
    """Nothing is created before the folder is opened.

    Args:
        output_dir: the run's folder; relative to the current directory.
        device: where networks are.
        seed: seed of everything random.
        precision: "fp32", "bf16" or "auto" (bf16 where the hardware computes in it).
        checkpoint_interval: steps between checkpoints.
        cache_dir: where index, resized pixels and latents are kept; None for `cache` in the run's folder.
        inference_batch_size: items at once where nothing is trained.
        num_workers: processes that load ahead; 0 suffices while patches or latents are cached.
        accumulate: parts in which each process computes its share of a batch, one after the other; a batch, its losses
            and its gradient stay what they are, and memory is that of one part.
        activation_checkpointing: whether autoencoder and diffusion model compute their activations anew in the backward
            pass instead of keeping them: less memory, about a third more time.
        mlflow_tracking_uri: see `bundle.runs.tracking.Tracking`; None for no MLflow.
        shared: whether the processes of one torchrun may write into the folder together.

    Attributes:
        folder: the RunFolder.

    Raises:
        ValueError: an unknown precision, or a count below 1.
    """

    output_dir: str | Path
    device: torch.device | str = "cpu"
    seed: int = 0
    precision: str = "auto"
    checkpoint_interval: int = 500
    cache_dir: str | Path | None = None
    inference_batch_size: int = 32
    num_workers: int = 0
    accumulate: int = 1
    activation_checkpointing: bool = False
    mlflow_tracking_uri: str | None = None
    shared: bool = False
    folder: RunFolder = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.device = torch.device(self.device)
        autocast_dtype(self.precision, self.device)  # refuses an unknown precision
        check_counts(
            checkpoint_interval=self.checkpoint_interval,
            inference_batch_size=self.inference_batch_size,
            accumulate=self.accumulate,
        )
        if not isinstance(self.activation_checkpointing, bool):  # any text would count as true
            raise ValueError(
                f"--activation_checkpointing is {self.activation_checkpointing!r}; it must be True or False"
            )
        self.cache_dir = Path(self.output_dir, "cache") if self.cache_dir is None else Path(self.cache_dir)
        self.folder = RunFolder(self.output_dir, self.shared)

    @property
    def dtype(self) -> torch.dtype:
        """The type that matrix products and convolutions are computed in."""
        return autocast_dtype(self.precision, self.device)

    def at(self, output_dir: str | Path) -> RunContext:
        """The same in another folder; itself where that is its own, since one lock serves one folder."""
        return self if Path(output_dir) == Path(self.output_dir) else dataclasses.replace(self, output_dir=output_dir)


@by_name(*(field.name for field in dataclasses.fields(RunContext) if field.init and field.name != "shared"))
def run_context(**settings: Any) -> RunContext:
    """The context of the running config.

    Args:
        **settings: arguments of RunContext; those that are not given are top-level settings, by name.
    """
    return RunContext(**settings)
