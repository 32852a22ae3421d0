"""Small sets of images for the tests of an evaluation's sections."""

import numpy as np
import torch

from bundle.data.generated import generate_patch
from bundle.evaluation.sets import ImageSet


def image_set(images, labels=None, classes=("A", "B"), name="synthetic"):
    """uint8 [N, 3, S, S] as an ImageSet, all of the first class where no labels are given."""
    labels = np.zeros(len(images), int) if labels is None else labels
    return ImageSet(
        name, {}, classes, labels, [f"{name}_{place}.png" for place in range(len(images))], images.__getitem__
    )


def tissue(class_name, indices, slide=0, size=64):
    """Built-in patches, uint8 [N, 3, S, S]."""
    patches = [generate_patch(class_name, slide, index, size) for index in indices]
    return torch.from_numpy(np.stack(patches).transpose(0, 3, 1, 2).copy())
