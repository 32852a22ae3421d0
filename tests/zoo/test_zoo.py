"""The unit tests for the Model Zoo, run as the Zoo runs them: from its root, with the bundle below models/."""

import os
import shutil
from pathlib import Path

from processes import run_python

ROOT = Path(__file__).resolve().parents[2]
# What the tests import of the Zoo's ci/unit_tests/utils.py.
UTILS = """
def check_workflow(workflow, check_properties=False):
    workflow.initialize()
    missing = workflow.check_properties() if check_properties else []
    if missing:
        raise ValueError(f"missing: {missing}")
    workflow.run()
    workflow.finalize()
"""


def test_every_stage_passes_in_a_zoo(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "histodiffusion").symlink_to(ROOT, target_is_directory=True)
    tests = tmp_path / "ci" / "unit_tests"
    tests.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "zoo" / "test_histodiffusion.py", tests)
    (tests / "utils.py").write_text(UTILS)
    environment = {"PYTHONPATH": str(tests), "CUDA_VISIBLE_DEVICES": ""}
    before = set(os.listdir(ROOT))
    command = ("-m", "unittest", "--failfast", "test_histodiffusion")
    run = run_python(*command, cwd=tmp_path, environment=environment)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "Ran 10 tests" in run.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"models", "ci"} and set(os.listdir(ROOT)) == before
