"""The summary at the top of a report: sentences that rules derive from the figures, each with a link to its figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bundle.report.measured import UNLIKE, all_figures, as_texts, figure_anchor, is_figure, reading

# Metrics that rules speak of; where one is missing its rule says nothing.
GREY, COLOUR = "agreement_grey", "agreement_colour"
KERNEL, FRECHET = "kid", "frechet"
FLAGGED, IDENTICAL = "flagged", "identical"


@dataclass(frozen=True)
class Sentence:
    """What is said, and the id of the place in the page that it is said from."""

    text: str
    anchor: str


def summarise(evaluation: Mapping[str, Any]) -> list[Sentence]:
    """All that the rules find to say of an evaluation, the weakest first after what was compared."""
    rules = (_compared, _distance, _weakest_shape, _colour_alone, _weakest_distance, _most_figures, _copies, _floors)
    return [sentence for rule in rules for sentence in rule(evaluation)]


def _compared(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    compared = evaluation["compared"]
    total, counts = sum(compared.values()), sorted(set(compared.values()))
    each = f"{counts[0]} of each class" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} of a class"
    among = (
        f"{len(compared)} class{'es' if len(compared) > 1 else ''}" if len(compared) != 1 else f"class {[*compared][0]}"
    )
    yield Sentence(f"{total:,} synthetic images of {among} ({each}) are compared with as many real ones.", "made")


def _distance(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    for number, (name, section) in enumerate(evaluation.get("fidelity", {}).items()):
        found = section.get("overall", {}).get(FRECHET)
        if not is_figure(found):
            continue
        title = _title(section, FRECHET)
        text = f"{title[:1].upper()}{title[1:]} is {as_texts(found)['value']}"
        if "floor" in found:
            text += f"; that of real images ({floor_is(evaluation)}) is {as_texts(found)['floor']}"
            if found["floor"] > 0:
                times = found["value"] / found["floor"]
                text += f", so the synthetic ones have {times:.1f} times as much" if times >= 1 else ", which is more"
            text += _beyond_chance(found)
        yield Sentence(text + ".", figure_anchor(f"fidelity{number}", FRECHET))


def _weakest_shape(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    found = by_class(evaluation.get("agreement", {}), GREY)
    if found:
        # What a class lacks to its real images: the judge knows some classes better than others.
        lacks = {label: figure.get("floor", 1.0) - figure["value"] for label, figure in found.items()}
        label, best = max(lacks, key=lacks.__getitem__), min(lacks, key=lacks.__getitem__)
        text = f"Weakest by agreement without colour, beside real images, is {label}: the grey judge sees the asked "
        text += f"class in {share(found[label]['value'])} of its images"
        if "floor" in found[label]:
            text += f", and the right class in {share(found[label]['floor'])} of the real ones"
        if best != label:
            text += f". Strongest is {best}, with {share(found[best]['value'])}"
            if "floor" in found[best]:
                text += f" and {share(found[best]['floor'])}"
        if lacks[label] <= 0:
            text = "By agreement without colour no class falls behind its real images"
        yield Sentence(text + ".", figure_anchor("agreement", GREY, place(evaluation, label)))


def _colour_alone(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    section = evaluation.get("agreement", {})
    grey, colour = by_class(section, GREY), by_class(section, COLOUR)
    both = [label for label in colour if label in grey]
    if not both:
        return
    label = max(both, key=lambda label: colour[label]["value"] - grey[label]["value"])
    anchor = figure_anchor("agreement", GREY, place(evaluation, label))
    if colour[label]["value"] > grey[label]["value"]:
        text = f"{label} loses most without colour: the judge in colour agrees with {share(colour[label]['value'])} "
        text += f"of its images, the one in grey with {share(grey[label]['value'])}"
        if "floor" in colour[label] and "floor" in grey[label]:
            text += f"; of the real ones with {share(colour[label]['floor'])} and {share(grey[label]['floor'])}"
        yield Sentence(text + ".", anchor)
    else:
        yield Sentence("No class loses agreement without colour: the judge in grey agrees as often or more.", anchor)


def _weakest_distance(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    for number, (name, section) in enumerate(evaluation.get("fidelity", {}).items()):
        found = by_class(section, KERNEL)
        if len(found) < 2:
            continue
        # What a class is farther than its real images: classes differ in how far real ones are apart.
        label = max(found, key=lambda label: found[label]["value"] - found[label].get("floor", 0))
        texts = as_texts(found[label])
        by = f"{_title(section, KERNEL)} in {name.replace('_', ' ')} features"
        text = f"By {by}, {label} is farthest from its real images: {texts['value']}"
        if "floor" in texts:
            text = f"By {by}, {label} exceeds its floor most: {texts['value']}, where other real images have "
            text += texts["floor"]
            if found[label]["value"] <= found[label]["floor"]:
                text = f"By {by}, no class is farther from the reference than other real images are"
        yield Sentence(f"{text}.", figure_anchor(f"fidelity{number}", KERNEL, place(evaluation, label)))


def _most_figures(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    found: dict[str, list[tuple[str, str]]] = {}
    judged: Counter[str] = Counter()
    for section, label, metric, figure in all_figures(evaluation):
        if label is not None and reading(figure):
            judged[label] += 1
            if reading(figure) in UNLIKE:
                found.setdefault(label, []).append((section, metric))
    if len(judged) > 1 and found:
        label = max(found, key=lambda label: len(found[label]))
        tied = [other for other in found if len(found[other]) == len(found[label])]
        anchor = figure_anchor(*found[label][0], place(evaluation, label))
        text = f"{label} is unlike real images, beyond the intervals, in {len(found[label])} of its {judged[label]} "
        text += "figures, more than any other class."
        if len(tied) > 1:
            text = f"{listed(tied)} are unlike real images, beyond the intervals, in the most figures, "
            text += f"{len(found[label])} each."
        yield Sentence(text, anchor)


def _copies(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    overall = evaluation.get("copies", {}).get("overall", {})
    same = overall.get(IDENTICAL)
    if is_figure(same) and same["value"]:
        text = f"{same['value']:.0f} of the images are training images pixel for pixel."
        yield Sentence(text, figure_anchor("copies", IDENTICAL))
    found = overall.get(FLAGGED)
    if not is_figure(found):
        return
    text = "No image is flagged as a copy of a training image"
    if found["value"]:
        text = f"{share(found['value'])} of the images are flagged as copies of training images"
    if "floor" in found:
        text += f"; of real images that were never trained on {share(found['floor'])} are"
        text += _beyond_chance(found)
    text += ". Look at the pairs before passing the images on." if found["value"] else "."
    yield Sentence(text, figure_anchor("copies", FLAGGED))


def _floors(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    found = [reading(figure) for _, label, _, figure in all_figures(evaluation) if label is None]
    counts = Counter(kind for kind in found if kind)
    if counts:
        alike, total = counts["alike"] + counts["better"], sum(counts.values())
        text = (
            f"Over all classes {alike} of {total} figures that have an interval can't be told apart from their floor, "
        )
        text += f"or are better; {total - alike} are worse, or off it."
        if len(found) > total:
            text += f" {len(found) - total} more can't be judged, for want of a floor or an interval."
        yield Sentence(text, "figures")


def floor_is(evaluation: Mapping[str, Any]) -> str:
    """Which real images the floor is of."""
    floor = evaluation.get("floor", {})
    if "half" in floor:
        return f"of the other half of the part {floor.get('part')}"
    return f"of the part {floor['part']}" if floor.get("part") else "of another part"


def _beyond_chance(figure: Mapping[str, Any]) -> str:
    kind = reading(figure)
    if not kind or figure["value"] == figure["floor"]:
        return ""
    return f" (a difference {'within' if kind == 'alike' else 'beyond'} the intervals)"


def by_class(section: Mapping[str, Any], metric: str) -> dict[str, Mapping[str, Any]]:
    """The figure of each class that has it."""
    return {label: of[metric] for label, of in section.get("classes", {}).items() if is_figure(of.get(metric))}


def _title(section: Mapping[str, Any], metric: str) -> str:
    return section.get("metrics", {}).get(metric, {}).get("title") or metric.replace("_", " ")


def place(evaluation: Mapping[str, Any], label: str) -> int:
    """The number of a class, by which its cells are named."""
    return list(evaluation["compared"]).index(label)


def share(value: float) -> str:
    """A share as a percentage in words."""
    return f"{100 * value:.0f} %" if value in (0, 1) or 0.01 <= value <= 0.99 else f"{100 * value:.2g} %"


def listed(names: Sequence[str]) -> str:
    """Names in a row: "a, b and c"."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
