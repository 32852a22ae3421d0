"""Parts of a batch draw what the whole batch draws, and a process's share of it is where it should be."""

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from bundle.runs.shares import Part, one_for_all_rows, split_rows

WHOLE = Part(0, 7, 7)
IMAGES = torch.arange(7 * 4 * 3 * 3, dtype=torch.float32).reshape(7, 4, 3, 3) + 1
DRAWS = {
    "randn_like": torch.randn_like,
    "rand_like": torch.rand_like,
    "channels last": lambda images: torch.randn_like(images.to(memory_format=torch.channels_last)),
    "randn": lambda images: torch.randn(len(images), 5),
    "rand of a tuple": lambda images: torch.rand((len(images), 5)),
    "randint": lambda images: torch.randint(1000, (len(images),)),
    "randint from to": lambda images: torch.randint(5, 1000, size=(len(images), 2)),
    "bernoulli_": lambda images: images.new_empty(len(images), 1, 1, 1).bernoulli_(0.5) * images,
    "dropout": lambda images: nn.Dropout(0.5)(images),
    "dropout2d": lambda images: nn.Dropout2d(0.5)(images),
    "no dropout": lambda images: nn.Dropout(0.5).eval()(images),
    "one after the other": lambda images: torch.randn_like(images) + torch.rand(()) + torch.randn_like(images),
}


def drawn(part, draw):
    torch.manual_seed(3)
    with part.draws():
        return draw(IMAGES[part.first : part.first + part.count])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("counts", [(3, 4), (1, 1, 5)], ids=str)
def test_parts_draw_what_the_whole_batch_draws(draw, counts):
    starts = [sum(counts[:place]) for place in range(len(counts))]
    parts = [drawn(Part(start, count, 7), draw) for start, count in zip(starts, counts)]
    assert torch.equal(torch.cat(parts), drawn(WHOLE, draw))


def test_a_draw_for_all_rows_is_the_same_in_each_part():
    def draw(images):
        with one_for_all_rows():
            return torch.rand(1)

    assert torch.equal(drawn(Part(2, 1, 7), draw), drawn(WHOLE, draw))


@pytest.mark.parametrize("rows, parts, counts", [(7, 2, [3, 4]), (3, 8, [1, 1, 1]), (4, 1, [4])])
def test_parts_have_all_rows_once(rows, parts, counts):
    split = Part(2, rows, 10).split(parts)
    assert [part.count for part in split] == counts
    assert [place for part in split for place in range(part.first, part.first + part.count)] == list(range(2, 2 + rows))
    assert sum(part.weight for part in split) == pytest.approx(rows / 10)


@pytest.mark.parametrize("kind", [v2.MixUp, v2.CutMix])
def test_mixing_is_that_of_the_whole_batch(kind):
    """Each image is mixed with the one before it, which of the first is the last."""
    labels, mix = torch.arange(7), kind(alpha=1.0, num_classes=7)
    torch.manual_seed(0)
    expected = mix(IMAGES, labels)
    part, found = Part(0, 7, 7), []
    batch = {"image": IMAGES[[6, *range(7)]], "label": labels[[6, *range(7)]]}
    for _, rows in split_rows(batch, part, 3, before=1):
        torch.manual_seed(0)
        found.append([mixed[1:] for mixed in mix(rows["image"], rows["label"])])
    for place, whole in enumerate(expected):
        assert torch.equal(torch.cat([mixed[place] for mixed in found]), whole)
