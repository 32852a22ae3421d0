"""What is trained on and what is held out."""

import shutil

import numpy as np
import pytest
from helpers import few_images
from PIL import Image


def test_copies_of_held_out_patches_are_not_trained_on(workflow, tmp_path, caplog):
    for slide in ("a", "b", "c"):
        (tmp_path / "data" / slide).mkdir(parents=True)
    for number, slide in enumerate("aaaabbbbcccc"):
        few_images(tmp_path / "data" / slide, 1, first=number)
    shutil.copy(tmp_path / "data" / "a" / "0.png", tmp_path / "data" / "b" / "copy.png")
    settings = {"dataset_dir": str(tmp_path / "data"), "perceptual_network": "random", "validation_slides": "a"}
    made = workflow(output_dir=str(tmp_path / "out"), **settings)
    patches = made.parser.get_parsed_content("patches").prepare()
    assert len(patches.training()) == 8 and patches.held_out.sum() == 4
    assert "1 left out as copies of held-out ones" in patches.summary()


def test_held_out_slides_are_never_trained_on(pretrained, workflow):
    made = workflow(output_dir=str(pretrained))
    patches = made.parser.get_parsed_content("patches").prepare()
    groups = np.array(patches.store.groups)
    held_out = set(groups[patches.validation()])
    assert held_out and not held_out & set(groups[patches.training()])
    chosen = workflow(output_dir=str(pretrained), validation_slides="slide_02").parser.get_parsed_content("patches")
    assert set(np.array(chosen.prepare().store.groups)[chosen.validation()]) == {"slide_02"}
    wrong = workflow(output_dir=str(pretrained), validation_slides="slide_09").parser.get_parsed_content("patches")
    with pytest.raises(ValueError, match="slide_09.*slide_00"):
        wrong.prepare()


def test_weights_of_several_sources_reach_both_stages(pretrained, workflow, tmp_path):
    """Nine in ten draws from the smaller source, in patches and in every orientation of their latents."""
    small, large = tmp_path / "small", tmp_path / "large"
    for folder, count in ((small, 3), (large, 9)):
        folder.mkdir()
        few_images(folder, count)
    for number in range(3):  # not the pixels of the other source
        path = small / f"{number}.png"
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    settings = {"perceptual_network": "random", "output_dir": str(tmp_path / "out"), "autoencoder_batch_size": 4}
    made = workflow(dataset_dir={str(small): 9, str(large): 1}, validation_share=0.01, **settings)
    made.run()
    patches = made.parser.get_parsed_content("patches")
    of_source = np.bincount(patches.store.source_of[patches.training()], minlength=2)
    for name, repeats in (("train#dataset", 1), ("diffusion#dataset", 2)):
        items, weights = made.parser.get_parsed_content(name).source.weighted_items()
        assert weights.tolist() == pytest.approx([0.9, 0.1])
        assert [len(part) for part in items] == (of_source * repeats).tolist()
        assert sorted(np.concatenate(items).tolist()) == list(range(of_source.sum() * repeats))
