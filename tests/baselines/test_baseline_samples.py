"""Images of fixed seeds by an averaged generator: their order, their batches, what a picture says of itself."""

import functools
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from bundle.baselines.samples import averaged_copy, draw_classes, draw_images, save_samples
from bundle.baselines.stylegan2.networks import StyleGAN2Discriminator
from bundle.data.marks import read_marks
from bundle.models.artefacts import build
from bundle.models.ema import ExponentialMovingAverage


class Flat(torch.nn.Module):
    """Images of one colour, which class and seed decide; notes the classes of each batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.batches = []

    def draw(self, noise, labels):
        self.batches.append(labels.tolist())
        level = self.weight * labels / 2 + noise((len(labels), 1))[:, 0].tanh() / 4
        return level[:, None, None, None].expand(-1, 3, 4, 4)


def test_images_of_each_class_have_the_seeds_from_0_on_and_batches_of_their_own():
    generator = Flat()
    images = draw_classes(generator, classes=2, count=3, batch_size=2)
    assert generator.batches == [[0, 0], [0], [1, 1], [1]]
    assert images.shape == (6, 4, 4, 3) and images.dtype == np.uint8
    assert len({*images[:, 0, 0, 0].tolist()}) == 6
    assert (images == draw_images(generator, [0, 1, 2] * 2, [0, 0, 0, 1, 1, 1], batch_size=6)).all()
    assert (images[[4, 0]] == draw_images(generator, [1, 0], [1, 0], batch_size=1)).all()


def test_the_copy_has_the_averaged_weights_and_leaves_the_network():
    network = build(functools.partial(StyleGAN2Discriminator, num_classes=2, side=8, channels=[2, 2]), seed=0)
    average = ExponentialMovingAverage({name: tensor + 1 for name, tensor in network.state_dict().items()})
    copy = averaged_copy(network, average)
    assert all(torch.equal(tensor, average.weights[name]) for name, tensor in copy.state_dict().items())
    assert not copy.training and not any(weight.requires_grad for weight in copy.parameters())
    assert network.training and all(weight.requires_grad for weight in network.parameters())
    assert not torch.equal(copy.class_vectors, network.class_vectors)


def test_a_picture_shows_eight_of_each_class_and_says_what_made_it(tmp_path):
    images = np.repeat(np.arange(20, dtype=np.uint8) * 10, 3 * 16 * 16).reshape(20, 3, 16, 16).transpose(0, 2, 3, 1)
    labelled = SimpleNamespace(classes=["A", "B"], built_in=True)
    save_samples(tmp_path / "samples.png", images, labelled, "baseline.pt", 7)
    marks = read_marks(tmp_path / "samples.png")
    assert (marks["Model"], marks["Step"]) == ("baseline.pt", "7") and marks["TrainedOn"].startswith("built-in")
    picture = np.asarray(Image.open(tmp_path / "samples.png"))
    left = picture.shape[1] - 8 * 144
    shown = picture[26 + 64 :: 144, left + 64 :: 144, 0]
    assert shown.tolist() == [[10 * number for number in range(8)], [10 * number for number in range(10, 18)]]
    labelled.built_in = False
    save_samples(tmp_path / "samples.png", images, labelled, "baseline.pt", 8)
    assert read_marks(tmp_path / "samples.png")["TrainedOn"] == "patches given by the user"
