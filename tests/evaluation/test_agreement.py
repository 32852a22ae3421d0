"""What the judge sees in an image is counted against what was asked, beside what it sees in real ones."""

import pytest
import torch
from candidates import CLASSES
from compared import image_set, write_judge

from bundle.data.views import VIEWS
from bundle.evaluation.agreement import measure_agreement
from bundle.training.judge import Judge


class Oracle:
    """A judge that sees, in each view, what a table says of an image; known by its first pixel."""

    def __init__(self, classes, seen):
        self.classes, self.seen = list(classes), seen
        self.fingerprints, self.measured = dict.fromkeys(VIEWS, "f"), dict.fromkeys(VIEWS, {})

    def logits(self, images):
        keys = ((images[:, :, 0, 0] + 1) * 127.5).round().long().tolist()
        places = {view: torch.tensor([self.seen[view][tuple(key)] for key in keys]) for view in VIEWS}
        return {view: torch.nn.functional.one_hot(of, len(self.classes)).float() for view, of in places.items()}


def oracle(classes, *answers):
    """`answers`: (set, {view: class of each image})."""
    seen = {view: {} for view in VIEWS}
    for images, of in answers:
        for place in range(len(images)):
            for view in VIEWS:
                seen[view][tuple(images.read(place)[:, 0, 0].tolist())] = of[view][place]
    return Oracle(classes, seen)


def test_counts_and_shares_by_hand():
    """Two classes of 4 and 2; the judge knows a third, and lists them in another order."""
    synthetic = image_set("synthetic", (4, 2), classes=["TUM", "ADI"])
    reference = image_set("reference", (4, 2), first=50, classes=["TUM", "ADI"])
    right = [2, 2, 2, 2, 0, 0]
    judge = oracle(
        ["ADI", "STR", "TUM"],
        (synthetic, {"colour": right, "grey": [2, 2, 1, 0, 0, 2], "normalised": [1] * 6}),
        (reference, {"colour": right, "grey": [2, 2, 2, 0, 0, 0], "normalised": right}),
    )
    found = measure_agreement(judge, synthetic, reference, batch_size=4)
    assert (found["asked"], found["seen"]) == (["TUM", "ADI"], ["ADI", "STR", "TUM"])
    assert found["confusion"]["grey"] == {"synthetic": [[1, 1, 2], [1, 0, 1]], "reference": [[1, 0, 3], [2, 0, 0]]}
    grey = found["overall"]["agreement_grey"]
    assert grey["value"] == pytest.approx(3 / 6) and grey["floor"] == pytest.approx(5 / 6) and grey["better"] == "floor"
    assert grey["interval"][0] < grey["value"] < grey["interval"][1] and 5 / 6 < grey["floor_interval"][1] < 1
    assert found["overall"]["agreement_colour"]["value"] == 1 and found["overall"]["agreement_normalised"]["value"] == 0
    of_class = {name: of["agreement_grey"] for name, of in found["classes"].items()}
    assert (of_class["TUM"]["value"], of_class["ADI"]["value"]) == (0.5, 0.5)
    assert (of_class["TUM"]["floor"], of_class["ADI"]["floor"]) == (0.75, 1)
    assert found["metrics"].keys() == found["overall"].keys()


def test_the_interval_is_that_of_a_binomial():
    synthetic = image_set("synthetic", (100, 100), classes=["a", "b"])
    reference = image_set("reference", (100, 100), first=1000, classes=["a", "b"])
    right, some = [0] * 100 + [1] * 100, [0] * 80 + [1] * 20 + [1] * 100
    seen = dict.fromkeys(VIEWS, some)
    judge = oracle(["a", "b"], (synthetic, seen), (reference, dict.fromkeys(VIEWS, right)))
    found = measure_agreement(judge, synthetic, reference)["classes"]["a"]["agreement_grey"]
    assert found["value"] == 0.8 and found["interval"] == pytest.approx([0.8 - 0.078, 0.8 + 0.078], abs=0.015)
    assert found["floor"] == 1 and found["floor_interval"] == pytest.approx([100 / 103.8415, 1], rel=1e-4), "by Wilson"


def test_an_opinion_that_is_no_number_is_refused():
    """Of numbers that are none the first class would be the largest, without a word."""
    sets = [image_set(name, (2, 2), first, classes=["a", "b"]) for name, first in (("synthetic", 0), ("reference", 9))]
    judge = oracle(["a", "b"], *((one, dict.fromkeys(VIEWS, [0, 0, 1, 1])) for one in sets))
    of = judge.logits
    judge.logits = lambda images: {view: logits / (view != "normalised") * 0 for view, logits in of(images).items()}
    with pytest.raises(ValueError, match="judge_normalised.pt gives .* not finite for synthetic/0.png .* 3 more"):
        measure_agreement(judge, *sets)


def test_it_is_the_judges_own_opinion(tmp_path):
    judge = Judge(write_judge(tmp_path))
    synthetic, reference = image_set("synthetic", (3, 2, 2), side=32), image_set("reference", (3, 2, 2), 9, side=32)
    found = measure_agreement(judge, synthetic, reference)
    expected = judge.agreement(synthetic.images() / 127.5 - 1, torch.as_tensor(synthetic.labels))
    for view in VIEWS:
        assert found["overall"][f"agreement_{view}"]["value"] == pytest.approx(expected[view]["accuracy"], abs=1e-4)
    assert found["seen"] == list(CLASSES) and found["judge"]["weights"] == judge.fingerprints
