"""The settings of configs/proof.json: each does what it says."""

import pytest
import timm
from helpers import ROOT, flag_tests
from monai.bundle import ConfigWorkflow
from safetensors.torch import save_file


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), file)
    GIVEN["trunk_weights"] = str(file)


GIVEN = {
    "trunk": "test_resnet",
    "precision": "bf16",
    "backbones": "frozen,fine_tuned,scratch",
    "pools": {"gan": "gan/pool"},
    "pretrained_dir": "runs/pretrain",
    "pretraining_dir": "runs/tiles",
    "rare_class": "STR",
}


@pytest.fixture
def content():
    def make(config, **flags):
        workflow = ConfigWorkflow(str(ROOT / "configs" / config), bundle_root=str(ROOT), **flags)
        workflow.initialize()
        return workflow.parser.get_parsed_content

    return make


def backbone(w, way):
    return next(one for name, one in w("proof").backbones.items() if name.endswith(way))


def rows(w):
    return [row.name for row in w("proof").rows]


FLAGS = [
    ("dataset_dir", "labelled", lambda w: w("tiles").dataset_dir == "labelled"),
    ("test_dir", "a=x,b=y", lambda w: w("tiles").test_dirs == {"a": "x", "b": "y"}),
    ("test_dir", "x", lambda w: w("tiles").test_dirs == {"test": "x"}),
    ("pretraining_dir", "tiles", lambda w: w("pictures").pretraining_dir == "tiles"),
    ("pretrained_dir", "pre", lambda w: str(backbone(w, "frozen").encoder.trunk.weights) == "pre/autoencoder.pt"),
    ("pretrained_dir", "pre", lambda w: str(backbone(w, "scratch").pretrained_dir) == "pre"),
    ("adapted_dir", "adapted", lambda w: w("pictures").adapted_dir == "adapted"),
    ("output_dir", "out", lambda w: str(w("proof").folder.path) == "out"),
    ("output_dir", "out", lambda w: str(w("tiles").cache_dir) == "out/cache"),
    ("cache_dir", "kept", lambda w: str(w("proof").features.cache) == "kept/features"),
    ("patch_size", 96, lambda w: w("tiles").patch_size == w("trunks")[0].side == w("trunks")[0].input_side == 96),
    ("device", "cpu:0", lambda w: {str(w("trunks")[0].device), str(backbone(w, "scratch").device)} == {"cpu:0"}),
    ("precision", "fp32", lambda w: str(w("trunks")[0].dtype) == "torch.float32"),
    ("inference_batch_size", 7, lambda w: w("trunks")[0].batch_size == 7),
    ("groups", "(a)", lambda w: w("tiles").groups == "(a)"),
    ("ignored_classes", "STR,DEB", lambda w: w("tiles").ignored == {"STR", "DEB"}),
    ("split_file", "my.csv", lambda w: w("tiles").split_file == "my.csv"),
    ("labels_per_class", [3], lambda w: w("splits").numbers == [3]),
    ("draws", 3, lambda w: w("splits").draws == 3),
    ("folds", 4, lambda w: w("splits").folds == 4),
    ("rare_class", "TUM", lambda w: w("splits").rare_class == "TUM"),
    ("rare_labels", 2, lambda w: w("splits").rare_labels == 2),
    ("seed", 70, lambda w: w("splits").seed == w("tiles").seed == 70),
    ("backbones", "frozen", lambda w: list(w("proof").backbones) == ["test_resnet_frozen"]),
    ("trunk", "test_vit", lambda w: w("trunks")[0].name == "test_vit"),
    ("trunk_weights", __file__, lambda w: str(w("trunks")[0].weights) == __file__),
    ("trunk_arguments", {"test_resnet": {"drop_rate": 0.1}}, lambda w: w("trunks")[0].arguments == {"drop_rate": 0.1}),
    ("input_side", 48, lambda w: w("trunks")[0].input_side == backbone(w, "fine_tuned").side == 48),
    ("head_c", 0.1, lambda w: backbone(w, "frozen").C == 0.1),
    ("rows", "tint,real", lambda w: rows(w) == ["real", "tint"] and w("proof").named),
    ("own_rows", {"mine": {"copies": "blur"}}, lambda w: "mine" in rows(w)),
    ("pools", {"vae": "vae/pool"}, lambda w: "vae_random_100" in rows(w) and list(w("pictures").pools) == ["vae"]),
    ("copies", 2, lambda w: w("proof").copies == 2),
    ("base", "tint", lambda w: w("proof").base == "tint"),
    ("declared", "study.json", lambda w: w("proof").declared == "study.json"),
    ("training_of#scratch#steps", 5, lambda w: backbone(w, "scratch").training.steps == 5),
    ("training_of#fine_tuned#lr", 0.5, lambda w: backbone(w, "fine_tuned").training.lr == 0.5),
]

test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "proof.json",
    FLAGS,
    also=("trunk_arguments", "own_rows", "pools", "ignored_classes"),
    not_flags=("write_splits",),
    given=GIVEN,
)
