"""What training a classifier shares: averaging, validation, early stop; and classifiers of images.

The auxiliary image classifier phi_img of HistoDiffusion's Eq. 5 and the judges differ only in network, pictures and
what is measured at the end.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from ignite.engine import Events

from bundle.data.labelled import LabelledPatches
from bundle.data.loader import ItemDataset, PartLoader
from bundle.metrics.classification import predict, summarise
from bundle.models.artefacts import build, build_alike, load_artefact, save_artefact
from bundle.models.ema import ExponentialMovingAverage
from bundle.models.pretrained import PretrainedModels
from bundle.runs import job
from bundle.training.best import BestWeights
from bundle.training.stage import StageTrainer

logger = logging.getLogger(__name__)

MEASURED_UNUSED = 2048


class ClassifierTrainer(StageTrainer):
    """Trains a classifier by cross-entropy; keeps the averaged weights that validated best.

    The network is built when the data are known, since they decide the number of classes and the size of what it sees.

    Args:
        architecture: the network's class with its settings bound; what the data decide (`num_classes`, `side`,
            `in_channels`, `autoencoder`) is added where the class takes it.
        optimizer: the optimiser's class with its settings bound.
        labelled: the labelled patches.
        pretrained: the models of the pre-training; None where nothing is taken from them.
        validation_interval: steps between validations.
        patience: validations without improvement that end the training; None goes to the last step.
        ema_decay: decay of the averaged weights, which are the ones validated and kept.
        **stage: arguments of StageTrainer.
    """

    def __init__(
        self,
        architecture: functools.partial,
        optimizer: Callable[..., torch.optim.Optimizer],
        labelled: LabelledPatches,
        pretrained: PretrainedModels | None = None,
        validation_interval: int = 50,
        patience: int | None = None,
        ema_decay: float = 0.99,
        **stage: Any,
    ) -> None:
        super().__init__(**stage)
        self.architecture = architecture
        self.make_optimizer = optimizer
        self.labelled = labelled
        self.pretrained = pretrained
        self.validation_interval = validation_interval
        self.best = BestWeights(patience)
        self.ema_decay = ema_decay
        self.network: torch.nn.Module | None = None

    # What a subclass fills in, or has otherwise than a classifier of images.

    def known(self) -> dict[str, Any]:
        """Arguments of the network that the data decide: those of a network of images."""
        return {"num_classes": len(self.labelled.classes), "side": self.labelled.patch_size}

    def train_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits [B, classes] of a training batch, with their graph."""
        with self.autocast():
            return self.inferer(batch["image"].to(self.state.device, non_blocking=True), self.network)

    def train_loss(self, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits, fp32 [B, classes], and the loss of a training batch with its labels [B] on the device."""
        logits = self.train_logits(batch).float()
        return logits, functional.cross_entropy(logits, labels)

    def validation_loss(self, network: torch.nn.Module) -> float:
        """What is to become small, in nats."""
        raise NotImplementedError

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        """The figures of the final network, for `metrics.json`; may save pictures."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What the artefact holds besides the network."""
        return {} if self.pretrained is None else {"autoencoder_fingerprint": self.pretrained.fingerprint}

    # What they share.

    def state_objects(self) -> dict[str, Any]:
        return {"classifier": self.network, "ema": self.ema, "optimizer": self.optimizer, "best": self.best}

    def parents(self) -> dict[str, Any]:
        return {
            "classes": self.labelled.classes,
            "labelled data": self.labelled.fingerprint,
            "autoencoder": None if self.pretrained is None else self.pretrained.fingerprint,
        }

    def check(self) -> None:
        self.build_network()

    def build_network(self) -> torch.nn.Module:
        """The network for these data, with its random start."""
        if self.pretrained is not None:
            self.pretrained.prepare()
        self.labelled.prepare()
        known = self.known()
        wanted = inspect.signature(self.architecture.func).parameters
        filled = {name: known[name] for name in known if name in wanted and name not in self.architecture.keywords}
        return build(functools.partial(self.architecture, **filled), self.seed)

    def prepare(self) -> None:
        self.network = self.build_network().to(self.state.device)
        self.start_from_pretraining()
        self.ema = ExponentialMovingAverage(self.network.state_dict(), self.ema_decay)
        self.optimizer = self.make_optimizer(params=self.network.parameters())

    def start_from_pretraining(self) -> None:
        """Copies pre-trained weights into the fresh network, where there are any to start from."""

    def stopped_early(self) -> bool:
        return self.best.exhausted

    def attach_handlers(self) -> None:
        def due(engine: Any, step: int) -> bool:
            return step % self.validation_interval == 0 or step == self.steps

        self.add_event_handler(Events.ITERATION_COMPLETED(event_filter=due), self.validate)
        super().attach_handlers()

    def validate(self) -> None:
        """Measures the averaged weights; ends the training where they have stopped getting better."""
        # One process says it for all: a last digit may decide whether they go on.
        loss = job.agreed(job.by_first(lambda: self.validation_loss(self.averaged_network())))
        self.best.update(loss, self.state.iteration, self.ema.weights)
        if self.state.output:
            self.state.output[0]["validation_loss"] = loss  # for the handlers, which come after
        if self.best.exhausted:
            logger.info(
                f"{self.stage}: stopped after step {self.state.iteration}; validation was best at step {self.best.step}"
            )
            self.terminate()

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, float]:
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.accumulate(batchdata, self.backward)
        job.sum_gradients(self.network.parameters())
        self.optimizer.step()
        self.ema.update(self.network.state_dict())
        return self.numbers(terms)

    def backward(self, batch: dict[str, torch.Tensor], weight: float) -> dict[str, torch.Tensor]:
        """Loss and accuracy of some rows, after the loss's gradient times `weight` was passed backward."""
        labels = batch["label"].to(self.state.device, non_blocking=True)
        logits, loss = self.train_loss(batch, labels)
        (weight * loss).backward()
        return {"loss": loss, "accuracy": (logits.argmax(1) == labels[-len(logits) :]).float().mean()}

    def averaged_network(self, weights: dict[str, torch.Tensor] | None = None) -> torch.nn.Module:
        """A copy with the averaged weights, or those given, in evaluation mode and frozen."""
        network = build_alike(self.network).to(self.state.device)
        network.load_state_dict(self.ema.weights if weights is None else weights)
        return network.eval().requires_grad_(False)

    def finish(self) -> None:
        network = self.averaged_network(self.best.weights)
        measured = self.measure(network)
        self.folder.set_metrics("labelled", self.labelled.describe())
        self.folder.set_metrics(self.stage, {**measured, "best_step": self.best.step, **self.effort()})
        save_artefact(
            self.artefact_path,
            self.stage,
            network,
            classes=self.labelled.classes,
            data_fingerprint=self.labelled.fingerprint,
            steps=self.steps,
            identity=self.whole_identity(),
            **self.facts(),
        )


class ImageClassifierTrainer(ClassifierTrainer):
    """Trains a classifier of labelled images.

    Args:
        preprocessing: item -> item with "image" in [-1, 1], as the network sees it when nothing is drawn at random.
        **classifier: arguments of ClassifierTrainer.
    """

    def __init__(self, preprocessing: Callable, **classifier: Any) -> None:
        super().__init__(**classifier)
        self.preprocessing = preprocessing

    def predict(self, network: torch.nn.Module, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of one part of the labelled patches."""
        # Of a large archive few labels may be in use; a few thousand of the others say what they would all say.
        return self.predict_source(network, self.labelled.part(part, MEASURED_UNUSED if part == "unused" else None))

    def predict_source(self, network: torch.nn.Module, source: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of all items of a source."""
        loader = PartLoader(ItemDataset(source, self.preprocessing), self.context.inference_batch_size)
        return predict(lambda batch: network(batch["image"].to(self.state.device)), loader)

    def validation_loss(self, network: torch.nn.Module) -> float:
        return functional.cross_entropy(*self.predict(network, "validation")).item()

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        parts = [part for part in ("validation", "unused", "test") if len(self.labelled.part(part))]
        measured = {part: summarise(*self.predict(network, part), self.labelled.classes) for part in parts}
        return {"accuracy": measured["validation"]["accuracy"], **measured}


class EncoderClassifierTrainer(ImageClassifierTrainer):
    """Trains phi_img of Eq. 5: the autoencoder's encoder with attention pooling, on labelled images."""

    stage = "image_classifier"

    def known(self) -> dict[str, Any]:
        return {**super().known(), "autoencoder": dict(self.pretrained.autoencoder_facts["definition"])}

    def start_from_pretraining(self) -> None:
        self.network.load_trunk(self.pretrained.autoencoder(self.state.device).state_dict())


def load_classifier(
    path: Any, kind: str, classes: list[str] | None = None, also: Sequence[type] = ()
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Reads a classifier, frozen and in evaluation mode.

    Args:
        path: its artefact.
        kind: e.g. "latent_classifier".
        classes: the names, in order, that it must have been trained on; None for any.
        also: see `bundle.models.artefacts.build_from_definition`.

    Raises:
        ValueError: it tells other classes apart; both lists are named.
    """
    network, facts = load_artefact(path, kind, also)
    if classes is not None and facts["classes"] != list(classes):
        missing = [name for name in classes if name not in facts["classes"]]
        extra = [name for name in facts["classes"] if name not in classes]
        difference = f"unknown to it: {missing}; only there: {extra}" if missing or extra else "the order differs"
        raise ValueError(
            f"{path} tells the classes {facts['classes']} apart, expected {list(classes)} ({difference}); they don't "
            "belong together"
        )
    return network.requires_grad_(False), facts
