"""Processes that work on one folder: those of one torchrun share it, any others wait or go elsewhere."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from bundle.runs.files import TEMPORARY


def rank_and_world_size() -> tuple[int, int]:
    """Number of this process and how many there are, as torchrun tells them; (0, 1) without it.

    Raises:
        ValueError: RANK and WORLD_SIZE are set to something impossible.
    """
    found = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world_size = map(int, found)
    except ValueError:
        rank, world_size = -1, 0
    if not 0 <= rank < world_size:
        raise ValueError(
            f"RANK is {found[0]} and WORLD_SIZE is {found[1]} in the environment, but torchrun sets 0 <= RANK < "
            "WORLD_SIZE: unset both to run one process"
        )
    return rank, world_size


def leave_torchrun() -> tuple[int, int]:
    """What :func:`rank_and_world_size` says; from now on this process, and what it starts, is one by itself."""
    found = rank_and_world_size()
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    return found


def choose_gpu() -> None:
    """Makes "cuda" mean a GPU of this process's own under torchrun.

    Raises:
        ValueError: there are more processes on this machine than GPUs.
    """
    local = os.environ.get("LOCAL_RANK")
    if local is None or not torch.cuda.is_available():
        return
    count = torch.cuda.device_count()
    if not local.isdigit() or int(local) >= count:
        raise ValueError(
            f"LOCAL_RANK is {local} and this machine has {count} GPUs: give torchrun --nproc_per_node={count}, or "
            "--device cpu and hide the GPUs by CUDA_VISIBLE_DEVICES= in front of torchrun"
        )
    torch.cuda.set_device(int(local))


def lock_folder(path: Path, flag: str, shared: bool = False, place: tuple[int, int] | None = None) -> FileLock:
    """Makes a folder and locks it for this process, until `release()` or the end of the process, also by kill -9.

    Args:
        path: the folder.
        flag: the setting that names it, for messages.
        shared: whether the processes of one torchrun may hold it together. The first of them then holds the lock that
            any other run would need.
        place: number of this process, from 0, and how many share the folder, where they are told otherwise than by
            torchrun.

    Raises:
        NotADirectoryError: there is a file.
        RuntimeError: another living process holds the folder.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"--{flag} {path} is a file; name a folder")
    path.mkdir(parents=True, exist_ok=True)
    rank, world_size = place or rank_and_world_size()
    alone = world_size == 1 or not shared
    lock = FileLock(path / (f".lock_{rank}" if rank and not alone else ".lock"))
    try:
        lock.acquire(timeout=0)
        for other in path.glob(".lock_*") if alone else ():  # a later process of a torchrun may outlive the first
            with FileLock(other, timeout=0):
                pass
    except Timeout:
        lock.release()
        raise RuntimeError(
            f"another run is writing to {path.resolve()}: wait for it to end, or choose another --{flag}"
        ) from None
    if alone:  # else they may be another process's, which is just writing them
        remove_leftovers(path)
    return lock


def remove_leftovers(path: Path) -> None:
    """Removes temporary files of a run killed while it saved, but for those below a folder that another run holds."""
    for place, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_held(Path(place, name))]
        for name in filter(TEMPORARY.fullmatch, files):
            Path(place, name).unlink(missing_ok=True)


def _is_held(folder: Path) -> bool:
    """Whether a living process has locked a folder, by a file in it or by one beside it."""
    for lock in (*folder.glob(".lock*"), *folder.parent.glob(f".{glob.escape(folder.name)}.lock")):
        try:
            with FileLock(lock, timeout=0):
                pass
        except OSError:  # a Timeout, or a lock that is another user's
            return True
    return False
