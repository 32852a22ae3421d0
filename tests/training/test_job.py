"""Two processes, or one in parts, train as one process does; and what they say where they can't."""

import re

import pytest
import torch
from conftest import ROOT
from processes import start_python
from ways import STAGES, assert_same, copies, finish, in_two_processes, start_job, steps, trainer_of

from bundle.runs import job
from bundle.runs.processes import choose_gpu

FEW = ("autoencoder", "classifier")  # they have most of what is shared in its own way
BEGIN = """
import os, sys
sys.path[:0] = [{root!r}]
import torch
from bundle.runs import job
"""


@pytest.mark.parametrize(
    "stages, count", [(FEW, 4), pytest.param(tuple(STAGES), 20, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_shares_and_parts_train_as_the_whole(pretrained, adapted, tmp_path, stages, count):
    """Batches of 7, which neither two processes nor two parts divide."""
    folder = copies(tmp_path, pretrain=pretrained, adapt=adapted)
    whole = {stage: steps(stage, folder, count) for stage in stages}
    for stage in stages:
        assert_same(whole[stage], steps(stage, folder, count, accumulate=2))
    shared = in_two_processes(stages, folder, count)
    for stage in stages:
        assert_same(whole[stage], shared[stage])


def together(tmp_path, body, second=None, **where):
    """What two processes say that run a body each in a job, and how they end."""
    begin = BEGIN.format(root=str(ROOT))
    own = None if second is None else begin + second
    return finish(start_job(begin + body, own, cwd=tmp_path, **where), timeout=60)


def test_what_a_job_adds_up(tmp_path):
    """Sums, gradients of sums, batch norm over shares of 3 and 4, and agreement; in both processes alike."""
    body = """
job.start()
from bundle.models.batch_norm import join_batch_norms
rank = job.rank()
assert job.size() == 2 and job.is_first() == (rank == 0)
assert job.summed(torch.tensor([1.0 + rank])).item() == 3
assert job.gathered(rank) == [0, 1] and job.agreed(10 + rank) == 10
assert job.any_of(rank == 1) and not job.any_of(False)
assert job.by_first(job.rank) == (0 if rank == 0 else None)

torch.manual_seed(0)
whole, factors = torch.randn(7, 3, 4, 4), torch.randn(7, 3, 4, 4)
rows = slice(0, 3) if rank == 0 else slice(3, 7)
plain, joint = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
join_batch_norms(joint)
expected, found = whole.clone().requires_grad_(), whole[rows].clone().requires_grad_()
(plain(expected) * factors).mean().backward()
made = joint(found)
(made * factors[rows]).sum().div(factors.numel()).backward()
job.sum_gradients(joint.parameters())
close = lambda one, other: torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
close(made, torch.nn.BatchNorm2d(3)(whole)[rows])
close(found.grad, expected.grad[rows])
for one, other in zip(plain.parameters(), joint.parameters()):
    close(one.grad, other.grad)
for name, value in plain.state_dict().items():
    close(joint.state_dict()[name], value)
"""
    assert [process.returncode for process, _ in together(tmp_path, body)] == [0, 0]


REFUSED = {
    "it failed in the first": (
        "job.start()\njob.by_first(lambda: 1 / 0)",
        None,
        ("ZeroDivisionError", "process 0 failed, and says why"),
    ),
    "other settings": (
        "job.executed_config = lambda: {'seed': 0, 'device': 'cuda:0'}\njob.start()",
        "job.executed_config = lambda: {'seed': 1, 'device': 'cuda:1'}\njob.start()",
        ("process 1 on .* has --seed 1, the first one on .* has 0: give every process",) * 2,
    ),
    "other code": (
        "job.start()",
        "job.code_hash = lambda: 'abc'\njob.start()",
        ("process 1 on .* has the code of the bundle abc, the first one",) * 2,
    ),
    "another disk": (
        "job.start()\njob.SEEN_SECONDS = 0\njob.require_seen(job.Path('.'))",
        "job.start()\njob.SEEN_SECONDS = 0\njob.require_seen(job.Path('elsewhere'))",
        ("process 1 on .* does not see what the first process writes into .*--output_dir on a disk",) * 2,
    ),
    "a process that ended": (
        "job.start()\njob.any_of(False)",
        "import os\njob.start()\nos._exit(9)",
        ("another process of this job has ended: .* the same command goes on", ""),
    ),
}


@pytest.mark.parametrize("first, second, said", REFUSED.values(), ids=REFUSED)
def test_all_processes_end_by_a_sentence(tmp_path, first, second, said):
    for (process, found), sentence in zip(together(tmp_path, first, second), said):
        assert process.returncode != 0 and re.search(sentence, found), found[-2000:]


def test_processes_without_a_place_to_meet(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE is 2, and MASTER_ADDR and MASTER_PORT not set.*torchrun"):
        job.start()


def test_more_processes_than_items_or_gpus(monkeypatch, pretrained, tmp_path):
    trainer = trainer_of("autoencoder", copies(tmp_path, pretrain=pretrained), 4)
    monkeypatch.setattr(job, "size", lambda: 8)
    with pytest.raises(ValueError, match="--autoencoder_batch_size is 7, and 8 processes are to share it"):
        trainer.require_divisible()
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="LOCAL_RANK is 3 and this machine has 2 GPUs"):
        choose_gpu()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_out_of_memory_names_what_to_lower(monkeypatch, pretrained, tmp_path, error):
    trainer = trainer_of("diffusion", copies(tmp_path, pretrain=pretrained), 4, accumulate=2)

    def full(*arguments):
        raise error

    monkeypatch.setattr(trainer, "backward", full)
    with pytest.raises(MemoryError, match=r"--accumulate 4 \(now 2\).*--diffusion_batch_size \(now 7\).*is kept"):
        with trainer.explaining_memory():
            trainer.backward()


LEAVE = """
import os, signal, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tests/training"]
import ways
from ignite.engine import Events
from bundle.runs import job
from bundle.training.stage import StageTrainer, run_stages

def asked(trainer):
    if job.rank() == {asked} and trainer.state.iteration == {step}:
        os.kill(os.getpid(), signal.{name})

former = StageTrainer.attach_handlers
def attach(self):
    self.add_event_handler(Events.ITERATION_STARTED, asked)
    former(self)
StageTrainer.attach_handlers = attach
run_stages([ways.trainer_of("diffusion", {folder!r}, 6)], "")
"""


@pytest.mark.parametrize("name, processes", [("SIGTERM", 2), ("SIGUSR1", 1)])
def test_who_is_asked_to_leave_saves_and_says_go_on(pretrained, tmp_path, name, processes):
    """In the middle of step 3, the second of two processes or a single one; the other number of them goes on to 5."""
    folder = copies(tmp_path, pretrain=pretrained)
    (folder / "pretrain" / "diffusion.pt").unlink()
    code = LEAVE.format(root=str(ROOT), folder=str(folder), asked=processes - 1, step=3, name=name)
    for process, said in finish(start_job(code) if processes == 2 else [start_python("-c", code)]):
        assert process.returncode == 75, said[-3000:]
        assert "left after step 3 of 6" in said and "goes on from here" in said
    checkpoint = folder / "pretrain" / "diffusion_checkpoint.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == 3
    code = code.replace("iteration == 3", "iteration == 5").replace(f"== {processes - 1} and", "== 0 and")
    for process, said in finish([start_python("-c", code)] if processes == 2 else start_job(code)):
        assert process.returncode == 75, said[-3000:]
    assert torch.load(checkpoint, weights_only=True)["step"] == 5
