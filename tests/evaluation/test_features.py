"""Features are computed once for each set and extractor, and a file that is not theirs is not believed."""

import json
import logging

import pytest
import torch
from compared import image_set
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bundle.evaluation.extractors import Extractor
from bundle.evaluation.features import FeatureCache


class Counted:
    """An extractor of channel means that counts the images it sees."""

    def __init__(self, name="means", sha256="a", broken=None):
        self.seen, self.broken = 0, broken
        self.extractor = Extractor(name, "title", sha256, "none", self.apply, 8)
        self.seen = 0

    def apply(self, images):
        found = images.float().mean((2, 3))
        if self.broken is not None and self.seen <= self.broken < self.seen + len(images):
            found[self.broken - self.seen, 1] = torch.nan
        self.seen += len(images)
        return found


@pytest.fixture
def images():
    return image_set("synthetic", (5, 4, 3))


def test_features_are_computed_once(images, tmp_path):
    counted, cache = Counted(), FeatureCache(tmp_path, batch_size=5)
    found = cache.features(images, counted.extractor)
    assert counted.seen == 12 and torch.equal(found, images.images().float().mean((2, 3)))
    assert torch.equal(FeatureCache(tmp_path).features(images, counted.extractor), found) and counted.seen == 12
    (path,) = tmp_path.iterdir()
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert json.loads(said.pop("origin")) == {"of": "synthetic"}
    assert said == {
        "format": "histodiffusion-features/1",
        "extractor": "means",
        "weights_sha256": "a",
        "resize": "none",
        "images": "12",
        "fingerprint": images.fingerprint,
        "set": "synthetic",
    }


def test_other_images_and_other_weights_have_other_files(images, tmp_path):
    cache, counted = FeatureCache(tmp_path), Counted()
    paths = {
        cache.path(images, counted.extractor),
        cache.path(images, Counted("other").extractor),
        cache.path(images, Counted(sha256="b").extractor),
        cache.path(images.take(range(11)), counted.extractor),
        cache.path(image_set("synthetic", (4, 5, 3)), counted.extractor),
    }
    assert len(paths) == 5
    # The same pictures under another name are the same.
    assert cache.path(image_set("floor", (5, 4, 3)), counted.extractor) in paths


def cut_off(path, found):
    path.write_bytes(path.read_bytes()[:-7])


def of_other_images(path, found):
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    save_file({"features": found}, path, {**facts, "fingerprint": "0"})


def foreign(path, found):
    save_file({"features": found}, path)


def too_short(path, found):
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    save_file({"features": found[:-1]}, path, facts)


def not_finite(path, found):
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    save_file({"features": found * torch.nan}, path, facts)


@pytest.mark.parametrize("spoil", [cut_off, of_other_images, foreign, too_short, not_finite])
def test_a_file_that_is_not_theirs_is_made_again(images, tmp_path, caplog, spoil):
    counted, cache = Counted(), FeatureCache(tmp_path)
    found = cache.features(images, counted.extractor)
    path = cache.path(images, counted.extractor)
    spoil(path, found)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cache.features(images, counted.extractor), found)
    assert counted.seen == 24 and f"{path} can't be used" in caplog.text
    assert torch.equal(load_file(path)["features"], found)


def test_features_that_are_no_numbers_are_refused(images, tmp_path):
    counted = Counted(broken=7)
    with pytest.raises(
        ValueError, match="extractor means .*not finite for synthetic/7.png of the synthetic.*--extractors"
    ):
        FeatureCache(tmp_path, batch_size=5).features(images, counted.extractor)
    assert list(tmp_path.iterdir()) == [], "nothing is kept of a broken pass"
