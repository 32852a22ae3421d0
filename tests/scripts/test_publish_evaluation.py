import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def publish(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "publish_evaluation.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_figures_are_copied_and_private_paths_are_not(tmp_path):
    (tmp_path / "evaluate").mkdir()
    content = {
        "reference": {"test_dir": "/home/somebody/crc7/test", "images": {"TUM": 3}},
        "settings": [{"pool": "runs/synthesis/pool", "other": "C:\\Users\\somebody\\tiles"}, None, 0.5],
        "title": "PSNR in dB / as measured",
    }
    (tmp_path / "evaluate" / "evaluation.json").write_text(json.dumps(content))
    assert publish(tmp_path / "evaluate", tmp_path / "models").returncode == 0
    assert json.loads((tmp_path / "models" / "evaluation.json").read_text()) == {
        "reference": {"test_dir": "test", "images": {"TUM": 3}},
        "settings": [{"pool": "runs/synthesis/pool", "other": "tiles"}, None, 0.5],
        "title": "PSNR in dB / as measured",
    }


def test_without_an_evaluation_it_says_what_to_run(tmp_path):
    run = publish(tmp_path / "absent", tmp_path)
    assert run.returncode == 1 and "configs/evaluate.json" in run.stderr and "absent" in run.stderr
