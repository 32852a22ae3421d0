"""The classifier of noisy latents that guides sampling, Eq. 6 of HistoDiffusion.

The paper writes CE(phi(z_t), y) and calls phi time-dependent; its code trains on clean latents at t = 0 and then asks
about noisy ones. Here phi sees z_t and t, drawn by the diffusion model's own forward process and scale.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as functional

from bundle.metrics.classification import summarise
from bundle.runs.plots import save_lines
from bundle.runs.randomness import ImageNoise, mix_seed
from bundle.training.classifier import MEASURED_UNUSED, ClassifierTrainer
from bundle.training.latents import LatentCache, draw_latents

logger = logging.getLogger(__name__)

TEMPERATURES = (0.1, 10.0)  # beyond them guidance would be off, or blind to all but one class
REPORTED_LEVELS = 11  # noise levels of the report, evenly spread with both ends
VALIDATED_LEVELS = 10  # noise levels that the validation loss averages over


class LatentClassifierTrainer(ClassifierTrainer):
    """Trains phi(z_t, t) on cached latents of the labelled subset.

    Args:
        latents: posterior of the training images in all variants.
        maximum_timestep: t is drawn uniformly below it; None for the schedule's T. Guidance then keeps below it too.
        calibrate: whether to fit one temperature to the validation latents, by which guidance divides the logits.
        **classifier: arguments of ClassifierTrainer.
    """

    stage = "latent_classifier"
    pictures = ("accuracy_by_timestep.png",)

    def __init__(
        self, latents: LatentCache, maximum_timestep: int | None = None, calibrate: bool = False, **classifier: Any
    ) -> None:
        super().__init__(**classifier)
        self.latents = latents
        # "validation" chooses the weights kept.
        self.measured = {
            "validation": latents.plain("validation"),
            "unused": latents.plain("unused", MEASURED_UNUSED),
            "test": latents.plain("test"),
        }
        self.maximum_timestep = maximum_timestep
        self.calibrate = calibrate

    def check(self) -> None:
        super().check()
        timesteps = self.pretrained.schedule().timesteps
        if self.maximum_timestep is not None and not 1 <= self.maximum_timestep <= timesteps:
            flag = "--train#trainer#maximum_timestep"
            raise ValueError(f"{flag} is {self.maximum_timestep}; it must lie between 1 and {timesteps}")

    def prepare(self) -> None:
        super().prepare()
        self.schedule = self.pretrained.schedule()
        self.bound = self.maximum_timestep or self.schedule.timesteps

    def known(self) -> dict[str, Any]:
        return {
            "num_classes": len(self.labelled.classes),
            "side": self.pretrained.latent_side,
            "in_channels": self.pretrained.latent_channels,
            "autoencoder": dict(self.pretrained.autoencoder_facts["definition"]),
        }

    def parents(self) -> dict[str, Any]:
        return {
            **super().parents(),
            "latent scale": self.pretrained.latent.scale,
            "schedule": self.schedule.describe(),
            "latent variants": self.latents.describe(),
        }

    def before_first_step(self) -> None:
        self.latents.prepare()

    def train_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        latents = self.pretrained.latent.scaled(draw_latents(batch, self.state.device))
        timesteps = torch.randint(self.bound, (len(latents),), device=latents.device)
        noisy = self.schedule.add_noise(latents, torch.randn_like(latents), timesteps)
        with self.autocast():
            return self.inferer(noisy, self.network, timesteps)

    @torch.no_grad()
    def predict(self, network: torch.nn.Module, part: str, timestep: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of one part at one noise level; None is pure noise, with nothing of the image left.

        The noise is the same for every network. At each level, image i of every class has the same noise, so that
        what pure noise is taken for can't depend on the class.
        """
        latents, labels = self.measured[part].means()
        rank = torch.zeros(len(labels), dtype=torch.long)  # which of its class an image is
        for number in labels.unique():
            rank[labels == number] = torch.arange(int((labels == number).sum()))
        level = self.schedule.timesteps - 1 if timestep is None else timestep
        logits = []
        for places in torch.arange(len(labels)).split(self.context.inference_batch_size):
            clean = self.pretrained.latent.scaled(latents[places].to(self.state.device))
            seeds = [mix_seed(self.seed, level, place) for place in rank[places].tolist()]
            noise = ImageNoise(seeds, clean.device)(tuple(clean.shape))
            times = torch.full((len(places),), level, device=clean.device)
            noisy = noise if timestep is None else self.schedule.add_noise(clean, noise, times)
            logits.append(network(noisy, times).float().cpu())
        return torch.cat(logits), labels

    def averaged_over_time(self, network: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Validation logits and labels of `VALIDATED_LEVELS` noise levels, evenly spread below the bound."""
        levels = ((torch.arange(VALIDATED_LEVELS) + 0.5) * self.bound / VALIDATED_LEVELS).long().tolist()
        found = [self.predict(network, "validation", level) for level in levels]
        return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])

    def validation_loss(self, network: torch.nn.Module) -> float:
        return functional.cross_entropy(*self.averaged_over_time(network)).item()

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        """Accuracy and cross-entropy by noise level, for each part that has images; saves the plot."""
        classes = self.labelled.classes
        self.temperature = fit_temperature(*self.averaged_over_time(network)) if self.calibrate else 1.0
        parts = [part for part in self.measured if len(self.labelled.part(part))]
        levels = torch.linspace(0, self.schedule.timesteps - 1, REPORTED_LEVELS).round().long().tolist()
        rows: list[dict[str, Any]] = []
        for level in [*levels, None]:
            row: dict[str, Any] = {"timestep": "pure noise" if level is None else level}
            for part in parts:
                figures = summarise(*self.predict(network, part, level), classes)
                row[part] = {name: figures[name] for name in ("accuracy", "balanced_accuracy", "cross_entropy")}
            rows.append(row)
        timed = rows[:-1]
        save_lines(
            self.folder / "accuracy_by_timestep.png",
            {part: (levels, [row[part]["balanced_accuracy"] for row in timed]) for part in parts},
            labels=("timestep t", "balanced accuracy"),
            level=("chance", 1 / len(classes)),
            title="Accuracy of the latent classifier by noise level",
        )
        images = {part: len(self.measured[part].part) for part in parts}
        return {
            "validation_loss": round(self.best.loss, 4),
            "temperature": self.temperature,
            "chance": round(1 / len(classes), 4),
            "images": images,
            "accuracy_by_timestep": rows,
        }

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            **self.pretrained.latent.facts(),
            "schedule": self.schedule.describe(),
            "maximum_timestep": self.bound,
            "temperature": self.temperature,
        }


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature that minimises the cross-entropy of logits / temperature, within `TEMPERATURES`.

    Source: Guo et al. (arXiv 1706.04599), Eq. 9.

    Args:
        logits: [N, classes].
        labels: int64 [N].
    """
    logits = logits.double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(logits / log_temperature.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    temperature = log_temperature.exp().item()
    lowest, highest = TEMPERATURES
    if not lowest <= temperature <= highest:
        logger.warning(
            f"the fitted temperature is {temperature:.3g}, kept within {lowest} to {highest}: the validation images are"
            " too few, or the classifier has learned nothing"
        )
    return min(max(temperature, lowest), highest)
