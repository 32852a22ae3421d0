"""A step in parts: what processes share, or one computes bit by bit, with the gradient of the whole batch."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence

import torch

from bundle.models.batch_norm import batch_norms, join_batch_norms
from bundle.models.checkpointing import checkpoint_blocks
from bundle.runs import job
from bundle.runs.leaving import GO_ON, go_on
from bundle.runs.shares import Part, add_means, split_rows

logger = logging.getLogger(__name__)

BATCH = dict[str, torch.Tensor]


class SharedSteps:
    """What a trainer takes its steps with; see `bundle.training.stage.StageTrainer`, which it is a part of.

    The batch of a step is the same for any number of processes and parts. Losses are means over it: a part counts by
    its rows. Gradients are summed over parts as backward passes leave them, then over processes.
    """

    divisible = True  # whether a step can be shared and computed in parts at all
    # Networks that have all rows of a process at once, so that batch norm is over the whole batch in any case.
    at_once: Sequence[str] = ()

    @property
    def rows(self) -> Part:
        """The rows of each batch that this process has."""
        return self.data_loader.step_sampler.part

    def parts(self, batch: BATCH) -> list[tuple[Part, BATCH]]:
        """The rows of this process in as many parts as `--accumulate` says, with their places in the batch.

        One part where a network has batch norm, which is over all rows.
        """
        before = self.data_loader.step_sampler.rows_before
        return list(split_rows(batch, self.rows, 1 if self.undivided else self.context.accumulate, before))

    @functools.cached_property
    def undivided(self) -> bool:
        """Whether a network that is to see parts has batch norm."""
        return any(batch_norms(network) for name, network in self.networks().items() if name not in self.at_once)

    def drawing(self, part: Part) -> contextlib.AbstractContextManager:
        """Within it random numbers are those that this step draws for the whole batch, cut to the rows of a part."""
        if not part.is_whole:
            self._seed()  # each part draws what all draw
        return part.draws()

    def accumulate(self, batch: BATCH, backward: Callable[[BATCH, float], dict[str, torch.Tensor]]) -> BATCH:
        """Has every part of this process's rows passed backward.

        Args:
            batch: the rows of this process.
            backward: (rows of a part, what their mean counts in that of the batch) -> terms, means over those rows.

        Returns:
            the terms, means over the rows of this process.
        """
        total: BATCH = {}
        for part, rows in self.parts(batch):
            with self.drawing(part):
                total = add_means(total, backward(rows, part.weight), part.count / self.rows.count)
        return total

    def numbers(self, terms: BATCH) -> dict[str, float]:
        """Terms of a step as numbers, means over the whole batch, by one transfer to the host for all of them."""
        values = torch.stack([term.detach().float() for term in terms.values()])
        if job.size() > 1:
            values = job.summed(self.rows.weight * values)
        return dict(zip(terms, values.tolist()))

    def require_divisible(self) -> None:
        """Refuses what this stage can't share out.

        Raises:
            ValueError: fewer items in a batch than processes, or a stage that knows no shares.
        """
        if not self.divisible and (job.size() > 1 or self.context.accumulate > 1):
            raise ValueError(
                f"the stage {self.stage} trains in one process and on whole batches: start it without torchrun "
                f"({job.size()} processes) and with --accumulate 1 (now {self.context.accumulate})"
            )
        items = self.data_loader.items_per_batch
        if items < job.size():
            raise ValueError(
                f"{self.batch_size_flag} is {items}, and {job.size()} processes are to share it: give it at least "
                f"{job.size()}, or start fewer processes"
            )
        if self.context.accumulate > 1 and self.undivided:
            logger.info(f"{self.stage}: its batch norm is over the whole batch, so --accumulate does not divide it")

    def fit_networks(self) -> None:
        """Has batch norms normalise over the batch of all processes, and saves activations where that was asked."""
        for network in self.networks().values():
            if job.size() > 1:
                join_batch_norms(network)
            if self.context.activation_checkpointing:
                checkpoint_blocks(network)

    def leave_if_asked(self) -> None:
        """Saves a checkpoint and ends this process, and with it all, where a signal asked one of them to.

        Here the processes wait for each other, so that one that is late in what it alone does is no one's timeout.
        """
        if not job.any_of(self.leaving.asked is not None):
            return
        if self.state.iteration % self.checkpoint_interval:
            self.save_checkpoint()
        logger.warning(
            f"{self.stage}: left after step {self.state.iteration} of {self.steps}; {self.checkpoint_path} is saved. "
            f"{go_on()}"
        )
        job.any_of(False)  # nobody ends, and has the others ended, before the checkpoint is there
        raise SystemExit(GO_ON)

    def networks(self) -> dict[str, torch.nn.Module]:
        """The networks of this stage by the names that its checkpoint has for them."""
        return {name: item for name, item in self.state_objects().items() if isinstance(item, torch.nn.Module)}

    @property
    def batch_size_flag(self) -> str:
        """The flag of this stage's batch size."""
        section = self.section or self.stage
        flat, parser = f"{section}_batch_size", self.parser
        if parser is not None and flat in parser:
            return f"--{flat}"
        own = parser is None or f"{section}::trainer" in parser
        return f"--{section if own else 'train'}#trainer#batch_size"

    @contextlib.contextmanager
    def explaining_memory(self) -> Iterator[None]:
        """Around the steps: says what to lower where memory does not suffice."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            parts = self.context.accumulate
            raise MemoryError(
                f"{self.stage}: out of memory at step {self.state.iteration} on {self.state.device}. Give --accumulate "
                f"{2 * parts} (now {parts}), which changes no result, or --activation_checkpointing True; or, with "
                f"another --output_dir, a lower {self.batch_size_flag} (now {self.data_loader.items_per_batch}). "
                f"{self.checkpoint_path} is kept, and the same command goes on from there"
            ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed: a GPU's is of a class of its own, a CPU's is not."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def only(network: torch.nn.Module, trained: torch.Tensor) -> Iterator[None]:
    """Within it one parameter of a network has a gradient: a forward pass keeps what that one needs, and no more."""
    others = [weight for weight in network.parameters() if weight.requires_grad and weight is not trained]
    for weight in others:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in others:
            weight.requires_grad_(True)
