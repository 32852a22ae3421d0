"""Judging a pool or a selection against real images: section by section, each kept, so that a kill costs only one."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer

from bundle.data.pictures import save_grid
from bundle.data.transforms import scale_patch
from bundle.evaluation.agreement import measure_agreement
from bundle.evaluation.comparison import Comparison
from bundle.evaluation.copies import measure_copies
from bundle.evaluation.extractors import Extractor, Extractors
from bundle.evaluation.features import FeatureCache
from bundle.evaluation.fidelity import measure_fidelity
from bundle.evaluation.nuclei import measure_nuclei
from bundle.evaluation.sets import ImageSet
from bundle.evaluation.stain import measure_stain
from bundle.runs.context import RunContext
from bundle.runs.files import write_json
from bundle.runs.sums import content_hash

logger = logging.getLogger(__name__)

FORMAT = "histodiffusion-evaluation/1"
SECTIONS = ("fidelity", "stain", "nuclei", "copies", "agreement")
VERSION = 2  # raise it when what a section says changes, so that old results are not met
SHOWN_IMAGES = 24  # of each class


class Evaluation:
    """Measures all that is said of synthetic images, as a stage of `bundle.training.stage.run_stages`.

    The result of each section is kept in `sections/` with a hash of what it was measured on and with; the same command
    takes it from there, and measures it again where a set, weights or a setting has changed.

    Args:
        comparison: the sets.
        extractors: of the features; those of the first are used for the copy report.
        context: of the run; its seed is that of what is drawn.
        sections: which of `SECTIONS` are measured; None for all.
        draws, frechet_draws: of the bootstrap intervals, and of that of the overall Fréchet distance, whose draws take
            seconds each where features are many; 2 or more.
        microns_per_pixel: of the images as they are compared, for nuclei; None where unknown.
        inferer: how an extractor is applied to a batch; None calls it.

    Raises:
        ValueError: an unknown section, or fewer than 2 draws.
    """

    stage = "evaluation"
    pictures = ("evaluation.json", "copies.png", "nearest.csv", "nuclei.png")

    def __init__(
        self,
        comparison: Comparison,
        extractors: Extractors,
        context: RunContext,
        sections: Sequence[str] | str | None = None,
        draws: int = 500,
        frechet_draws: int = 8,
        microns_per_pixel: float | None = None,
        inferer: Inferer | None = None,
    ) -> None:
        chosen = [sections] if isinstance(sections, str) else SECTIONS if sections is None else list(sections)
        unknown = [name for name in chosen if name not in SECTIONS]
        if unknown or not chosen:
            raise ValueError(f"--sections is {sections!r}; they must be of {', '.join(SECTIONS)}")
        for flag, number in (("draws", draws), ("frechet_draws", frechet_draws)):
            if number < 2:
                raise ValueError(f"--{flag} is {number}; it must be 2 or more, as one draw shows no scatter")
        self.comparison = comparison
        self.extractors = extractors
        self.context = context
        self.folder = context.folder
        self.sections = [name for name in SECTIONS if name in chosen]
        self.draws = draws
        self.frechet_draws = frechet_draws
        self.microns_per_pixel = microns_per_pixel
        self.seed = context.seed
        self.inferer = inferer

    def check(self) -> None:
        """Refuses sets that can't be compared and weights that are missing, before anything is measured."""
        self.comparison.prepare()
        self.extractors.networks  # noqa: B018, reads them
        if "agreement" in self.sections:
            self.extractors.judge  # noqa: B018, reads it
        if "copies" in self.sections and not len(self.comparison.held_out):
            raise ValueError(
                f"all images of the part {self.comparison.parts['held out']!r} are among the training images, pixel "
                "for pixel, so nothing shows how near real images come that were not trained on: name another part "
                "with --held_out, or leave the copy report out of --sections"
            )

    def run(self) -> None:
        """Writes `evaluation.json`, `grids/`, and what the sections write themselves."""
        self.folder.open()
        self.check()
        self.folder.save_config()
        started = time.monotonic()
        self.cache = FeatureCache(self.folder / "features", self.context.inference_batch_size, self.inferer)
        equal = self.comparison.equal
        logger.info(f"compared, of each set: {', '.join(f'{count} {name}' for name, count in equal.compared.items())}")
        for note in self.comparison.notes:
            logger.warning(note)
        self._save_grids()
        found = {name: getattr(self, f"_{name}")() for name in self.sections}
        content = {
            "format": FORMAT,
            **self.comparison.describe(),
            "compared": equal.compared,
            "extractors": [extractor.describe() for extractor in self.extractors.networks],
            **found,
            "settings": self.settings(),
            "notes": self.comparison.notes,
        }
        write_json(self.folder / "evaluation.json", content)
        overall = {
            section: {name: one["value"] for name, one in result["overall"].items()}
            for section, result in results(content).items()
        }
        self.folder.set_metrics("evaluation", {"seconds": round(time.monotonic() - started, 1), **overall})
        logger.info("\n".join(table(content)))

    def settings(self) -> dict[str, Any]:
        """What was chosen, as plain data."""
        return {
            **{role.replace(" ", "_"): part for role, part in self.comparison.parts.items()},
            "sections": self.sections,
            "draws": self.draws,
            "frechet_draws": self.frechet_draws,
            "microns_per_pixel": self.microns_per_pixel,
            "seed": self.seed,
        }

    # The sections.

    def _kept(
        self, name: str, about: list[Any], measure: Callable[[], dict[str, Any]], files: Sequence[str] = ()
    ) -> Any:
        """The result of a section: as it was kept, or measured now and kept.

        Args:
            name: of its file.
            about: plain data of all that decides the result.
            files: what it writes into the run's folder besides; it is measured again where one is missing.
        """
        path, identity = self.folder / f"sections/{name}.json", content_hash([VERSION, name, about])
        if path.is_file() and all((self.folder / file).is_file() for file in files):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["identity"] == identity:
                    logger.info(f"{name}: measured before; kept {path}")
                    return content["result"]
            except (ValueError, KeyError, TypeError) as error:
                logger.warning(f"{path} can't be read ({error!r}): it is measured again")
        logger.info(f"{name}: measuring")
        # As JSON has it, so that a result is the same whether it was kept or not.
        result = json.loads(json.dumps(measure()))
        write_json(path, {"identity": identity, "result": result})
        return result

    def _sets(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        equal = self.comparison.equal
        return equal.synthetic, equal.reference, equal.floor

    def _fidelity(self) -> dict[str, Any]:
        sets = self._sets()
        prints = [one.fingerprint for one in sets]
        found = {}
        for extractor in self.extractors.networks:

            def measure(extractor: Extractor = extractor) -> dict[str, Any]:
                return measure_fidelity(
                    *self._features(extractor),
                    tuple(one.labels for one in sets),
                    sets[0].classes,
                    draws=self.draws,
                    frechet_draws=self.frechet_draws,
                    seed=self.seed,
                    frechet_title=extractor.title,
                )

            about = [prints, extractor.identity, self.draws, self.frechet_draws, self.seed]
            found[extractor.name] = self._kept(f"fidelity_{extractor.name}", about, measure)
        return found

    def _features(self, extractor: Extractor) -> list[torch.Tensor]:
        """Features of the compared sets; from those of the whole ones where the copy report needs these."""
        comparison = self.comparison
        if extractor is not self.extractors.networks[0] or "copies" not in self.sections:
            return [self.cache.features(one, extractor) for one in self._sets()]
        whole = (comparison.synthetic, comparison.reference, comparison.floor)
        return [self.cache.features(one, extractor)[places] for one, places in zip(whole, comparison.equal.places)]

    def _stain(self) -> dict[str, Any]:
        draws = {"draws": self.draws, "seed": self.seed}
        about = [[one.fingerprint for one in self._sets()], draws]
        return self._kept("stain", about, lambda: measure_stain(*self._sets(), **draws))

    def _nuclei(self) -> dict[str, Any]:
        given = {"microns_per_pixel": self.microns_per_pixel, "draws": self.draws, "seed": self.seed}
        about = [[one.fingerprint for one in self._sets()], given]

        def measure() -> dict[str, Any]:
            return measure_nuclei(*self._sets(), folder=self.folder.path, **given)

        return self._kept("nuclei", about, measure, ["nuclei.png"])

    def _copies(self) -> dict[str, Any]:
        sets = (self.comparison.synthetic, self.comparison.training, self.comparison.held_out)
        first = self.extractors.networks[0]
        draws = {"draws": self.draws, "seed": self.seed}

        def measure() -> dict[str, Any]:
            features = tuple(self.cache.features(one, first) for one in sets)
            return measure_copies(*sets, features, self.folder.path, **draws)

        about = [[one.fingerprint for one in sets], [one.files for one in sets], first.identity, draws]
        return self._kept("copies", about, measure, ("copies.png", "nearest.csv"))

    def _agreement(self) -> dict[str, Any]:
        synthetic, reference, _ = self._sets()
        judge = self.extractors.judge
        about = [synthetic.fingerprint, reference.fingerprint, judge.fingerprints]
        return self._kept(
            "agreement",
            about,
            lambda: measure_agreement(judge, synthetic, reference, self.context.inference_batch_size),
        )

    def _save_grids(self) -> None:
        """Pictures of each class: synthetic images, marked as such, and real ones of the reference."""
        synthetic, reference, _ = self._sets()
        for label, name in enumerate(synthetic.classes):
            for images, file, marks in (
                (synthetic, f"{name}.png", {**self.comparison.marks, "Class": name}),
                (reference, f"{name}_real.png", None),
            ):
                own = np.flatnonzero(images.labels == label)
                shown = own[np.linspace(0, len(own) - 1, min(len(own), SHOWN_IMAGES)).round().astype(int)]
                save_grid(self.folder / f"grids/{file}", scale_patch(images.images(shown)), synthetic=marks)


def results(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The results of an evaluation by section, those of fidelity by extractor as well."""
    found = {f"fidelity, {name}": result for name, result in content.get("fidelity", {}).items()}
    return found | {name: content[name] for name in SECTIONS[1:] if name in content}


def table(content: dict[str, Any]) -> list[str]:
    """The overall figures of an evaluation as lines of text: value, floor, and their intervals."""
    lines = []
    for section, result in results(content).items():
        lines.append(f"{section}:")
        for name, found in result["overall"].items():
            title = result["metrics"].get(name, {}).get("title", name)
            value = _with_interval(found["value"], found.get("interval"))
            floor = _with_interval(found.get("floor"), found.get("floor_interval"))
            better = "the nearer to real the better" if found["better"] == "floor" else f"{found['better']} is better"
            lines.append(f"  {title:58} {value:30} real {floor:30} {better}")
    return lines


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")
