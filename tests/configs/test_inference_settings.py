"""The settings of configs/inference.json: checked by MONAI, each flag does what it says."""

import os

from helpers import ROOT, flag_tests
from monai.bundle import ConfigWorkflow
from processes import run_python

from bundle.diffusion.sampling import Sampling

CONFIG = str(ROOT / "configs" / "inference.json")


def test_check_properties_finds_nothing_missing_from_anywhere(tmp_path):
    """Without data and weights, from the bundle root and from another folder, and nothing is written."""
    code = (
        "import os\n"
        "from monai.bundle import ConfigWorkflow\n"
        f"for root, folder, file in (({str(ROOT)!r}, os.getcwd(), {CONFIG!r}), "
        f"('.', {str(ROOT)!r}, 'configs/inference.json')):\n"
        "    os.chdir(folder)\n"
        "    w = ConfigWorkflow(config_file=file, workflow_type='inference', bundle_root=root)\n"
        "    w.initialize()\n"
        "    assert w.check_properties() == [], w.check_properties()\n"
        "    assert w.evaluator.network is w.network_def and w.evaluator.inferer is w.inferer\n"
        "    assert w.dataset_dir == 'runs/synthesis/pool', w.dataset_dir\n"
    )
    before = set(os.listdir(ROOT))
    run = run_python("-c", code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert set(os.listdir(ROOT)) == before and not os.listdir(tmp_path)


def at_once(w):
    return w("evaluator").data_loader.batch_size


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("adapted_dir", "/some/where", lambda w: str(w("network_def").adapted_dir) == "/some/where"),
    ("output_dir", "else", lambda w: str(w("context").folder.path) == "else" and str(w("pool").folder) == "else/pool"),
    ("dataset_dir", "elsewhere", lambda w: str(w("pool").folder) == "elsewhere"),
    ("device", "meta", lambda w: w("network_def").device.type == w("evaluator").state.device.type == "meta"),
    ("precision", "bf16", lambda w: w("inferer").precision == "bf16"),
    ("compile", True, lambda w: w("network_def").compiled is True),
    ("classes", "TUM", lambda w: w("dataset").asked == "TUM"),
    ("num_images", 3, lambda w: w("dataset").num_images == 3),
    ("seed", 7, lambda w: w("dataset").seed == w("guidance_pictures").seed == 7),
    ("inference_batch_size", 5, lambda w: at_once(w) == w("guidance_pictures").batch_size == 5),
    ("png_threads", 2, lambda w: w("pool").threads == 2),
    ("sampler", "ddpm", lambda w: w("inferer").sampling.sampler == "ddpm"),
    ("num_inference_steps", 9, lambda w: w("inferer").sampling.steps == 9),
    ("spacing", "leading", lambda w: w("inferer").sampling.spacing == "leading"),
    ("eta", 0.5, lambda w: w("inferer").sampling.eta == 0.5),
    ("guidance_scale", 2, lambda w: w("inferer").guidance_scale == 2.0),
    ("guidance_interval", [10, 800], lambda w: w("inferer").guidance_interval == [10, 800]),
    ("guidance_maximum_norm", 0.5, lambda w: w("inferer").guidance_maximum_norm == 0.5),
    ("guidance_temperature", 2, lambda w: w("inferer").guidance_temperature == 2.0),
    ("decoder", "pretrained", lambda w: w("network_def").decoder == "pretrained"),
    ("network_def#num_inference_steps", 4, lambda w: w("network_def").num_inference_steps == 4),
    ("generator_class", "TUM", lambda w: w("network_def").name == "TUM"),
    ("pictures", False, lambda w: w("guidance_pictures") is None),
    ("picture_scales", [0, 3], lambda w: w("guidance_pictures").scales == [0.0, 3.0]),
    ("mlflow_tracking_uri", "file:///x", lambda w: w("context").mlflow_tracking_uri == "file:///x"),
]

test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "inference.json", FLAGS, not_flags=["inference"], given={"pictures": True}
)


def test_defaults_are_those_documented():
    made = ConfigWorkflow(config_file=CONFIG, workflow_type="infer", bundle_root=str(ROOT))
    made.initialize()
    found = {name: value for name, value in vars(made.inferer).items() if name != "ratios"}
    assert found == {
        "sampling": Sampling(25, 1.4, "sde_dpm_solver++", "log_snr"),
        "guidance_scale": 3.0,
        "guidance_interval": None, "guidance_maximum_norm": None, "guidance_temperature": None, "precision": "auto",
    }  # fmt: skip
    assert made.parser.get_parsed_content("guidance_pictures") is None
