"""A MONAI training of a classifier, to which HistoDiffusion adds synthetic images where --adapted_dir is given.

    python docs/examples/train_classifier.py TRAIN TEST --adapted_dir runs/adapt

The bundle is installed (`pip install .` in a clone), or its folder is on PYTHONPATH. TRAIN and TEST are folders with
one folder of images for each class; the adaptation is one to the same classes. Without --adapted_dir this is a training
as there are many, and nothing of the bundle is used. What is added stands between lines of dashes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from ignite.metrics import Accuracy
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import StatsHandler, ValidationHandler, from_engine
from monai.networks.nets import DenseNet121
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandFlipd, ScaleIntensityRanged
from monai.utils import set_determinism

# isort: split
# ---- added
from monai.bundle import ConfigWorkflow

from bundle.models.adapted import AdaptedModels
from bundle.runs.chain import CONFIGS
from bundle.selection.handlers import SelectiveAugmentation
from bundle.selection.table import selected_items
from bundle.synthesis.handlers import PoolWriter
from bundle.synthesis.inferers import GuidedLatentInferer
from bundle.synthesis.pool import Pool
from bundle.synthesis.requests import RequestLoader, SynthesisRequests, prepare_requests

SCORER = {}  # other settings of configs/select.json


def synthetic_items(given):
    """Guided images of each class, of which a scorer, trained on the labelled images alone, keeps the best."""
    models, inferer = AdaptedModels(given.adapted_dir, given.device).prepare(), GuidedLatentInferer()
    places = {"dataset_dir": given.train_dir, "split_file": f"{given.adapted_dir}/split.csv"}
    config = str(CONFIGS / "select.json")
    select = ConfigWorkflow(config, run_id="scorer", output_dir=given.output_dir, patch_size=models.patch_size,
                            device=given.device, ratios=[given.ratio], **places, **SCORER)  # fmt: skip
    select.initialize()
    select.run()
    selector = select.parser.get_parsed_content("selector")
    requests = RequestLoader(SynthesisRequests(models.classes, num_images=given.num_images), batch_size=32)
    with Pool(f"{given.output_dir}/pool", inferer.identity(models)) as pool:
        selection = SelectiveAugmentation(selector, pool, f"{given.output_dir}/selection.csv")
        SupervisedEvaluator(given.device, requests, models, prepare_batch=prepare_requests, inferer=inferer,
                            val_handlers=[PoolWriter(pool), selection], decollate=False).run()  # fmt: skip
    return selected_items(f"{given.output_dir}/selection.csv", given.ratio)


# ---- until here


def labelled_items(folder):
    classes = sorted(path.name for path in Path(folder).iterdir() if path.is_dir())
    return [
        {"image": str(path), "label": label}
        for label, name in enumerate(classes)
        for path in sorted((Path(folder) / name).iterdir())
    ]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_dir")
    parser.add_argument("test_dir")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    # ---- added
    parser.add_argument("--adapted_dir")
    parser.add_argument("--output_dir", default="runs/example")
    parser.add_argument("--num_images", type=int, default=200, help="candidates of each class")
    parser.add_argument("--ratio", type=int, default=100, help="synthetic images in percent of the labelled ones")
    # ---- until here
    given = parser.parse_args(arguments)
    set_determinism(0)

    items = labelled_items(given.train_dir)
    # ---- added
    if given.adapted_dir:
        items += synthetic_items(given)
    # ---- until here
    test = labelled_items(given.test_dir)
    count = 1 + max(item["label"] for item in items)
    read = [
        LoadImaged("image", reader="PILReader"),
        EnsureChannelFirstd("image"),
        ScaleIntensityRanged("image", 0, 255, -1, 1),
    ]
    network = DenseNet121(2, 3, count).to(given.device)
    evaluator = SupervisedEvaluator(
        given.device,
        DataLoader(CacheDataset(test, Compose(read), progress=False), batch_size=32),
        network,
        key_val_metric={"accuracy": Accuracy(output_transform=from_engine(["pred", "label"]))},
        val_handlers=[StatsHandler(iteration_log=False)],
        decollate=False,
    )
    trainer = SupervisedTrainer(
        given.device,
        given.epochs,
        DataLoader(CacheDataset(items, Compose([*read, RandFlipd("image", 0.5)])), batch_size=32, shuffle=True),
        network,
        torch.optim.AdamW(network.parameters(), lr=3e-4),
        torch.nn.CrossEntropyLoss(),
        train_handlers=[
            ValidationHandler(1, evaluator),
            StatsHandler(tag_name="loss", output_transform=from_engine("loss", first=True)),
        ],
    )
    trainer.run()
    print(f"{len(items)} images, accuracy {evaluator.state.metrics['accuracy']:.3f}")
    return items


if __name__ == "__main__":
    main()
