"""The verdict's rules at their borders; words explained where they stand."""

import pytest
from evaluated import evaluation, some_figure

from bundle.evaluation.figures import figure
from bundle.report.glossary import TERMS, glossed, term_anchor
from bundle.report.verdict import STRONG, WEAK, verdict


def with_agreement(value, floor=0.8):
    content = evaluation()
    content["agreement"]["overall"]["agreement_grey"] = some_figure(value, "floor", floor)
    return content


def use(content, built_in=False, studied=False):
    return verdict(content, built_in, studied)[0].text


@pytest.mark.parametrize(
    "value, begins",
    [
        (0.8 * STRONG, "Usable as extra training images"),
        (0.8 * STRONG - 1e-9, "Usable as candidates for selection"),
        (0.8 * WEAK, "Usable as candidates for selection"),
        (0.8 * WEAK - 1e-9, "Usable for looking at"),
        (0.9, "Usable as extra training images"),
    ],
)
def test_the_share_of_the_floor_decides_the_use(value, begins):
    assert use(with_agreement(value)).startswith(begins)


def test_without_a_floor_it_is_held_against_one():
    content = evaluation()
    for value, begins in ((STRONG, "Usable as extra"), (STRONG - 1e-9, "Usable as candidates")):
        content["agreement"]["overall"]["agreement_grey"] = figure(value, better="floor")
        assert use(content).startswith(begins)
    assert "of real images" not in use(content)


def test_copies_come_before_agreement():
    content = with_agreement(0.8)
    flagged = content["copies"]["overall"]
    flagged["flagged"] = figure(0.1, 0.05, (0.06, 0.14), (0.01, 0.09))  # 0.05 <= hypot(0.04, 0.04): chance
    assert use(content).startswith("Usable as extra")
    flagged["flagged"] = figure(0.11, 0.05, (0.07, 0.15), (0.01, 0.09))  # 0.06 > hypot(0.04, 0.04)
    assert use(content) == (
        "Not usable before the pairs were looked at: 11 % of the images are flagged as copies of training images, of "
        "real images 5 %."
    )
    flagged["identical"] = figure(2, 0)
    assert "2 images are training images pixel for pixel" in use(content)
    assert use(content, built_in=True) == "Usable to try the software: built-in patches are not tissue."


def test_what_nobody_measured_names_no_use():
    content = evaluation()
    del content["agreement"]
    assert use(content).startswith("No use can be named")
    assert verdict(content, False, False)[1].text == "The weakest class, by kernel distance, is TUM."
    del content["fidelity"], content["stain"], content["nuclei"], content["copies"]
    texts = [sentence.text for sentence in verdict(content, False, False)]
    assert len(texts) == 3 and texts[1].startswith("No class can be called the weakest")
    assert texts[2] == (
        "Not measured: fidelity, agreement with the asked class, stain, nuclei, copies of training images, the worth "
        "to a classifier, what a pathologist sees and other scanners and hospitals."
    )
    assert verdict(evaluation(), False, True, read=True)[2].text == "Not measured: other scanners and hospitals."
    assert "the study shows" in use(with_agreement(0.8), studied=True)


def test_the_weakest_class_lacks_most_to_its_real_images():
    content = evaluation()
    assert verdict(content, False, False)[1].text == (
        "The weakest class, by agreement without colour, is NORM: 50 % of its images, of real ones 93 %."
    )
    of = content["agreement"]["classes"]
    for label in of:
        of[label]["agreement_grey"] = figure(0.9, 0.9, (0.8, 1.0), (0.8, 1.0), "floor")
    assert "no class falls behind" in verdict(content, False, False)[1].text
    of["TUM"]["agreement_grey"] = figure(0.89, 0.9, (0.8, 1.0), (0.8, 1.0), "floor")
    assert verdict(content, False, False)[1].text.endswith(
        "TUM: 89 % of its images, of real ones 90 %, within what chance explains."
    )


def test_words_are_explained_once_and_names_stay_text():
    text = str(glossed("The floor of <b>, beside other floors; KID and a kernel distance & more."))
    assert text.count('href="#term-floor"') == 1 and text.count('href="#term-kernel-distance"') == 1
    assert "&lt;b&gt;" in text and "&amp; more" in text and "<b>" not in text
    assert str(glossed("flooring")) == "flooring"
    assert len({term_anchor(term) for term in TERMS}) == len(TERMS)
