"""The processes of one training: what torchrun started, who is the first of them, and what they agree on.

A training is one job of as many processes as torchrun says, on one machine or several. All of them take the same steps
on the same items, each its share of them. The first alone writes. Without torchrun there is one process, and
everything here does nothing.

They have two groups of their own beside the default one, which Ignite and MONAI know. Tensors of a step go through
one, by NCCL between GPUs and by gloo between CPUs; who waits there waits for a calculation, so its timeout is short and
a process that died is noticed. Whatever may take an hour, such as encoding patches or drawing samples, is waited for in
the other one, without end; a process that dies closes its connections, and those who wait end at once.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import hashlib
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.distributed import utils as idist_utils
from ignite.distributed.comp_models.base import _SerialModel
from torch.distributed.nn.functional import all_reduce

from bundle.runs.processes import rank_and_world_size
from bundle.runs.workflow import executed_config

logger = logging.getLogger(__name__)

Made = TypeVar("Made")
START = datetime.timedelta(minutes=10)  # until all have come
TIMEOUT = datetime.timedelta(seconds=45)  # for a calculation of others; a job whose process was killed ends within
PATIENCE = datetime.timedelta(days=30)  # for whatever else others do
BUCKET_VALUES = 2**24  # gradients are summed so many at once, 64 MiB of fp32
SEEN_SECONDS = 20  # until a file of another machine shows on a network disk
TOKEN = ".job"
OWN_SETTINGS = {"device", "bundle_root"}  # which may differ between the processes

_steps: dist.ProcessGroup | None = None
_waiting: dist.ProcessGroup | None = None


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def start(device: torch.device | str = "cpu") -> None:
    """Joins the processes that torchrun started, once; they stay together until they end.

    Args:
        device: where the networks of this process are.

    Raises:
        ValueError: the environment names several processes and no place to meet; or the processes differ in their
            settings or their code.
        ConnectionError: the others don't come.
    """
    global _steps, _waiting
    rank, world_size = rank_and_world_size()
    if world_size == 1 or _waiting is not None:
        return
    backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
    if not dist.is_initialized():
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise ValueError(
                f"WORLD_SIZE is {world_size}, and {' and '.join(missing)} not set, so the processes can't meet: start "
                f"them by torchrun --nproc_per_node={world_size} -m monai.bundle run ..., or unset WORLD_SIZE to run "
                "one process"
            )
        try:
            store, rank, world_size = next(dist.rendezvous("env://", timeout=START))
            # The agent of torchrun keeps what the processes before a restart wrote, such as where they were.
            store = dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=START)
        except (RuntimeError, ValueError, OSError) as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise ConnectionError(
                f"process {rank} of {world_size} did not meet the others at {place} within {START.seconds // 60} "
                "minutes: start as many as WORLD_SIZE says, and look at what they say"
            ) from error
    _steps = dist.new_group(backend=backend, timeout=TIMEOUT)
    _waiting = dist.new_group(backend="gloo", timeout=PATIENCE)
    local = os.environ.get("LOCAL_RANK")
    idist.sync()  # now, by all: Ignite's first look at the group is an exchange of its own
    if local is not None:
        os.environ["LOCAL_RANK"] = local  # Ignite takes Slurm's, which under torchrun is that of the machine
    if rank > 0:
        logging.getLogger().setLevel(logging.WARNING)
    require_alike(facts_of_this_process())
    logger.info(f"{world_size} processes train together, by {backend}")
    atexit.register(end)


def end() -> None:
    """Leaves the others, at the end of the process; after an error they may be in the middle of something."""
    global _steps, _waiting
    if dist.is_initialized() and getattr(sys, "last_value", None) is None:
        idist.finalize()
        _steps = _waiting = None


def gathered(content: Any) -> list[Any]:
    """What each process gives, in their order; anything that pickle takes."""
    if size() == 1:
        return [content]
    found: list[Any] = [None] * size()
    with others_needed():
        dist.all_gather_object(found, content, group=_waiting)
    return found


@contextlib.contextmanager
def others_needed() -> Iterator[None]:
    """Around what only all processes can do together: says so where one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this job has ended: it or torchrun says why. What was saved is kept; the same command "
            "goes on from there"
        ) from error


def agreed(content: Made) -> Made:
    """What the first process gives: for decisions that must be the same though figures may differ in a last digit."""
    return gathered(content if is_first() else None)[0]


def any_of(flag: bool) -> bool:
    """Whether any process says so; here the processes wait for each other, however long."""
    if size() == 1:
        return flag
    found = torch.tensor([int(flag)])
    with others_needed():
        dist.all_reduce(found, group=_waiting)
    return bool(found)


def together(work: Callable[[], Made]) -> Made:
    """Does work that all processes do at once; where one of them fails, all do.

    Raises:
        RuntimeError: it failed in another process, which says why.
    """
    if size() == 1:
        return work()
    result, error = None, None
    try:
        result = work()
    except Exception as caught:
        error = caught
    failed = [number for number, text in enumerate(gathered(None if error is None else str(error))) if text is not None]
    if error is not None:
        raise error
    if failed:
        raise RuntimeError(f"process {failed[0]} failed, and says why")
    return result


def first_goes_first(work: Callable[[], Made]) -> Made:
    """Does work in the first process, then in all others: what the first one writes, they find."""
    if is_first():
        return by_first(work)
    by_first(work)
    return work()


def by_first(work: Callable[[], Made]) -> Made | None:
    """Does work in the first process alone, while the others wait; its result there, None in the others.

    Raises:
        RuntimeError: it failed in the first process, which says why.
    """

    def first_alone() -> Made | None:
        if not is_first():
            return None
        with alone():
            return work()

    return together(first_alone)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it Ignite, and MONAI through it, see one process: their metrics would wait for what others don't bring."""
    former = idist_utils._model, idist_utils._need_to_sync
    idist_utils._model, idist_utils._need_to_sync = _SerialModel(), False
    try:
        yield
    finally:
        idist_utils._model, idist_utils._need_to_sync = former


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, without a gradient; itself where there is one."""
    if size() == 1:
        return tensor
    total = tensor.detach().clone()
    with others_needed():
        dist.all_reduce(total, group=_steps)
    return total


def summed_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, through which a gradient goes to all of them."""
    return tensor if size() == 1 else all_reduce(tensor, group=_steps)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Adds up the gradients of all processes, in place.

    All at once when they are complete, and not by DistributedDataParallel as they come: a step here has several
    backward passes, two networks, parts of different sizes, and weights between losses that are ratios of gradients.
    DDP averages what one backward pass through one network gives.
    """
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    buckets: list[list[torch.Tensor]] = []
    values = BUCKET_VALUES
    for gradient in gradients:
        if values + gradient.numel() > BUCKET_VALUES or gradient.dtype != buckets[-1][0].dtype:
            buckets.append([])
            values = 0
        buckets[-1].append(gradient)
        values += gradient.numel()
    sums = [torch.cat([gradient.flatten() for gradient in bucket]) for bucket in buckets]
    with others_needed():
        waits = [dist.all_reduce(total, group=_steps, async_op=True) for total in sums]
    for bucket, total, wait in zip(buckets, sums, waits):
        with others_needed():
            wait.wait()
        parts = total.split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [part.view(gradient.shape) for part, gradient in zip(parts, bucket)])


def require_seen(folder: Path) -> None:
    """Makes sure that all processes see the folder that the first one writes into.

    Raises:
        ValueError: on some machine there is another folder of that name, or none.
    """
    if size() == 1:
        return
    token = agreed(secrets.token_hex(8))
    by_first(lambda: (folder / TOKEN).write_text(token, encoding="ascii"))
    deadline = time.monotonic() + SEEN_SECONDS
    while not (seen := _is_token(folder / TOKEN, token)) and time.monotonic() < deadline:
        time.sleep(0.5)
    blind = [(number, host) for number, (host, sees) in enumerate(gathered((socket.gethostname(), seen))) if not sees]
    by_first((folder / TOKEN).unlink)
    if blind:
        raise ValueError(
            f"process {blind[0][0]} on {blind[0][1]} does not see what the first process writes into {folder}: give an "
            "--output_dir on a disk that all machines share"
        )


def _is_token(path: Path, token: str) -> bool:
    try:
        return path.read_text(encoding="ascii") == token
    except OSError:
        return False


def require_alike(facts: dict[str, Any]) -> None:
    """Refuses processes that would not do the same.

    Args:
        facts: of this process, by the names under which a message shows them.

    Raises:
        ValueError: names the first fact that differs, in all processes alike.
    """
    everyone = gathered((socket.gethostname(), facts))
    home, first = everyone[0]
    for number, (host, theirs) in enumerate(everyone):
        for name in {**first, **theirs}:
            one, other = first.get(name, "not given"), theirs.get(name, "not given")
            if one != other:
                raise ValueError(
                    f"process {number} on {host} has {name} {other}, the first one on {home} has {one}: give every "
                    "process the same command, and every machine the same code"
                )


@functools.cache
def code_hash() -> str:
    """Of the Python files of this bundle."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def facts_of_this_process() -> dict[str, Any]:
    """What must be the same in all processes: settings, code and versions."""
    config = {name: value for name, value in (executed_config() or {}).items() if name not in OWN_SETTINGS}
    versions = {"the version of torch": torch.__version__, "the code of the bundle": code_hash()}
    return {**versions, **_flat(config, "--")}


def _flat(content: dict[str, Any], above: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in content.items():
        found |= _flat(value, f"{above}{name}#") if isinstance(value, dict) else {f"{above}{name}": repr(value)}
    return found
