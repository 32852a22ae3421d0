"""Which images are asked for, in which batches."""

import pytest
import torch
from torch.utils.data import DataLoader

from bundle.synthesis.requests import RequestLoader, SynthesisRequests, choose_classes, prepare_requests

KNOWN = ["ADI", "STR", "TUM"]


@pytest.mark.parametrize(
    "asked, known, chosen",
    [
        (None, KNOWN, KNOWN),
        ("TUM", KNOWN, ["TUM"]),
        ("TUM, ADI", KNOWN, ["TUM", "ADI"]),
        (("TUM", "ADI"), KNOWN, ["TUM", "ADI"]),
        (["TUM", "ADI", "TUM"], KNOWN, ["TUM", "ADI"]),
        (3, ["1", "3"], ["3"]),
        ((3, 1), ["1", "3"], ["3", "1"]),
        ("fat, dense", ["fat, dense", "fat"], ["fat, dense"]),
    ],
)
def test_classes_come_as_string_tuple_list_or_number(asked, known, chosen):
    assert choose_classes(asked, known) == chosen


@pytest.mark.parametrize(
    "asked, named", [("XYZ", "'XYZ'"), ("TUM,XYZ", "'XYZ'"), (7, "'7'"), ([], "nothing"), ("", "''")]
)
def test_an_unknown_class_is_refused_with_the_known_ones(asked, named):
    with pytest.raises(ValueError, match=f"--classes asks for {named}; the model knows ADI, STR, TUM"):
        choose_classes(asked, KNOWN)


@pytest.mark.parametrize(
    "settings", [{"num_images": 0}, {"num_images": 1.5}, {"seed": -1}, {"seed": "a"}, {"seed": True}]
)
def test_impossible_numbers_are_refused_by_their_flag(settings):
    with pytest.raises(ValueError, match=f"--{next(iter(settings))} is "):
        SynthesisRequests(KNOWN, **settings)


def test_image_i_of_each_class_has_seed_plus_i():
    requests = SynthesisRequests(lambda: KNOWN, "TUM,ADI", num_images=2, seed=5)
    assert list(requests) == [
        {"label": 2, "seed": 5, "class": "TUM"},
        {"label": 2, "seed": 6, "class": "TUM"},
        {"label": 0, "seed": 5, "class": "ADI"},
        {"label": 0, "seed": 6, "class": "ADI"},
    ]


def neighbours(**settings):
    """{(class, seed): seeds of its batch}."""
    loader = RequestLoader(SynthesisRequests(KNOWN, **settings), 4)
    batches = [[loader.requests[index] for index in batch] for batch in loader.batches()]
    assert all(len({request["class"] for request in batch}) == 1 for batch in batches)
    return {(one["class"], one["seed"]): [other["seed"] for other in batch] for batch in batches for one in batch}


def test_neighbours_in_a_batch_don_t_depend_on_what_else_is_asked_for():
    whole = neighbours(num_images=12)
    assert whole["TUM", 5] == [4, 5, 6, 7]
    for settings in ({"classes": "TUM"}, {"num_images": 8}, {"seed": 4, "num_images": 4}):
        assert neighbours(**{"num_images": 12, **settings}).items() <= whole.items()


def test_batches_with_all_images_there_are_left_out():
    there = {("ADI", 0), ("ADI", 1), ("STR", 1)}
    loader = RequestLoader(SynthesisRequests(KNOWN, num_images=2), 2, lambda name, seed: (name, seed) in there)
    assert loader.images_to_make() == 4
    assert [(batch["class"], batch["seed"].tolist()) for batch in loader] == [
        (["STR", "STR"], [0, 1]),
        (["TUM", "TUM"], [0, 1]),
    ]


def test_processes_share_the_batches(monkeypatch):
    requests = SynthesisRequests(KNOWN, num_images=5)
    whole = RequestLoader(requests, 2, share=True).batches()
    shares = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        shares += RequestLoader(requests, 2, share=True).batches()
        assert RequestLoader(requests, 2).batches() == whole  # who doesn't share does all
    assert sorted(shares) == sorted(whole)


def test_an_ordinary_loader_takes_the_requests_too():
    batch = next(iter(DataLoader(SynthesisRequests(KNOWN, num_images=1), batch_size=3)))
    seeds, labels, arguments, named = prepare_requests(batch, "cpu", non_blocking=True)
    assert seeds.tolist() == [0, 0, 0] and labels.tolist() == [0, 1, 2] and labels.dtype == torch.int64
    assert arguments == () and named["labels"] is labels
