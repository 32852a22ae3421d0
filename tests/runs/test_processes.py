"""Who may write into a folder: one run, or the processes of one torchrun together."""

import pytest
from filelock import FileLock

from bundle.runs.processes import lock_folder, rank_and_world_size


def become(monkeypatch, rank, world_size):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))


@pytest.mark.parametrize("rank, world_size", [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "0")])
def test_an_impossible_environment_is_refused(monkeypatch, rank, world_size):
    become(monkeypatch, rank, world_size)
    with pytest.raises(ValueError, match=f"RANK is {rank} and WORLD_SIZE is {world_size}"):
        rank_and_world_size()


def test_processes_of_one_torchrun_share_a_folder_and_nobody_else_joins(monkeypatch, tmp_path):
    become(monkeypatch, 0, 2)
    assert rank_and_world_size() == (0, 2)
    first = lock_folder(tmp_path, "output_dir", shared=True)
    become(monkeypatch, 1, 2)
    second = lock_folder(tmp_path, "output_dir", shared=True)
    with pytest.raises(RuntimeError, match="choose another --output_dir"):
        lock_folder(tmp_path, "output_dir", shared=True)  # the same rank of another torchrun
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    assert rank_and_world_size() == (0, 1)
    for held in (first, second):  # each alone still keeps a single run out
        with pytest.raises(RuntimeError, match="another run is writing to"):
            lock_folder(tmp_path, "output_dir", shared=True)
        held.release()
    lock_folder(tmp_path, "output_dir").release()


def test_a_folder_that_is_not_shared_is_one_process_alone(monkeypatch, tmp_path):
    become(monkeypatch, 0, 2)
    held = lock_folder(tmp_path, "output_dir")
    become(monkeypatch, 1, 2)
    with pytest.raises(RuntimeError, match="another run is writing to"):
        lock_folder(tmp_path, "output_dir")
    held.release()


def test_leftovers_of_a_killed_run_go_but_not_those_of_a_living_process(monkeypatch, tmp_path):
    leftover = tmp_path / ".metrics.123.tmp.json"
    leftover.touch()
    become(monkeypatch, 1, 2)
    lock_folder(tmp_path, "output_dir", shared=True).release()
    assert leftover.exists()
    become(monkeypatch, 0, 1)
    lock_folder(tmp_path, "output_dir", shared=True).release()
    assert not leftover.exists()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="--output_dir .*file is a file"):
        lock_folder(tmp_path / "file", "output_dir")


def test_leftovers_in_subfolders_go_too_but_not_those_of_other_runs(tmp_path):
    """Nor what only looks like one, nor what lies in a hidden folder or behind a link."""
    run = tmp_path / "run"
    gone = [run / "pictures" / ".a.1.tmp.png", run / "cache" / "b" / ".SHA256SUMS.2.tmp", run / "ended" / ".a.1.tmp.pt"]
    stay = [run / name / "c" / ".a.3.tmp.png" for name in ("pool", "made", ".git")]
    stay += [run / "pictures" / name for name in ("a.1.tmp.png", ".a.tmp.png", ".b.1.tmp.png.txt")]
    stay.append(tmp_path / "elsewhere" / ".a.1.tmp.png")
    for file in (*gone, *stay):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (run / "link").symlink_to(tmp_path / "elsewhere")
    lock_folder(run / "ended", "output_dir").release()  # its lock is still there, and nobody holds it
    gone[-1].touch()
    with FileLock(run / "pool" / ".lock"), FileLock(run / ".made.lock"):
        lock_folder(run, "output_dir").release()
    assert not any(file.exists() for file in gone) and all(file.exists() for file in stay)
