import os
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from processes import fork_what_is_spawned, start_python, wait_for
from tqdm import tqdm

from bundle.downstream.study.training import one_line, training_processes


def describe_process(pause=0.0):
    time.sleep(pause)
    return os.getpid(), torch.get_num_threads(), tqdm(range(1)).disable


def test_one_training_at_a_time_needs_no_other_process():
    with training_processes(1) as trainers:
        assert trainers.submit(describe_process).result()[0] == os.getpid()
        with pytest.raises(ZeroDivisionError):
            trainers.submit(divmod, 1, 0)


def test_several_share_the_threads_and_show_no_bars(monkeypatch):
    fork_what_is_spawned(monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    with training_processes(2) as trainers:
        monkeypatch.undo()
        found = [trainers.submit(describe_process, 1.0) for _ in range(2)]
        processes, threads, silent = zip(*(future.result() for future in found))
    assert len({os.getpid(), *processes}) == 3
    assert threads == (2, 2) and silent == (True, True)


def test_the_first_cause_of_an_error_on_one_line():
    try:
        try:
            raise OSError("no space\nleft")
        except OSError as error:
            raise RuntimeError("MONAI's") from error
    except RuntimeError as error:
        assert one_line(error) == "OSError: no space left"


ORPHAN = """
import os, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from bundle.downstream.study.training import training_processes
from test_training import leave_a_trace

if __name__ == "__main__":
    with training_processes(2) as trainers:
        trainers.submit(leave_a_trace, {trace!r})
"""


def leave_a_trace(path):
    Path(path + ".part").write_text(str(os.getpid()))
    os.rename(path + ".part", path)
    time.sleep(60)


@pytest.mark.slow
def test_a_killed_study_leaves_no_training_behind(tmp_path):
    """It would hold the lock of its run's folder against the same command. The training is no fork."""
    trace, script = tmp_path / "trace", tmp_path / "study.py"
    script.write_text(ORPHAN.format(root=str(ROOT), tests=str(Path(__file__).parent), trace=str(trace)))
    study = start_python(script, environment={"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])})
    wait_for(trace, study)
    study.kill()
    study.communicate()
    training, deadline = int(trace.read_text()), time.monotonic() + 60
    while is_alive(training) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(training)


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
