import json
import subprocess
import sys
from pathlib import Path

from evaluated import write_evaluation
from PIL import Image

from bundle.data.marks import read_marks
from bundle.report.evaluation_folder import synthetic_grids

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from publish_evaluation import LEFT_OUT, main  # noqa: E402


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
        "published": {"left_out": LEFT_OUT},
    }


def test_synthetic_grids_go_along_and_real_tiles_do_not(tmp_path):
    write_evaluation(tmp_path / "evaluate")
    (tmp_path / "models" / "grids").mkdir(parents=True)
    (tmp_path / "models" / "grids" / "old.png").touch()
    Image.new("RGB", (9, 9)).save(tmp_path / "evaluate" / "grids" / "TUM.png")  # says nothing of being synthetic
    main([str(tmp_path / "evaluate"), str(tmp_path / "models")])
    files = {path.name: path for path in (tmp_path / "models").rglob("*.*")}
    assert files.keys() == {"evaluation.json", "LYM.png", "NORM.png"}
    assert read_marks(files["LYM.png"])["SyntheticData"] == "YES"


def test_a_class_is_no_path(tmp_path):
    folder = write_evaluation(tmp_path / "evaluate")
    (folder / "grids" / "LYM.png").rename(tmp_path / "secret.png")
    assert [name for name, _ in synthetic_grids(folder, ["../../secret", str(tmp_path / "secret"), "NORM"])] == ["NORM"]


def test_without_an_evaluation_it_says_what_to_run(tmp_path):
    run = publish(tmp_path / "absent", tmp_path)
    assert run.returncode == 1 and "configs/evaluate.json" in run.stderr and "absent" in run.stderr
