"""A linear classifier on the pooled features of any timm model or MONAI's ResNet.

One network for the two classifiers that pictures pass through after synthesis: the scorer of selective augmentation,
which needs features as well as logits, and the classifier that the augmentation is for.
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from monai.networks.nets import ResNet
from torch import nn
from torch.nn.functional import interpolate

from bundle.models.foreign_weights import is_state_dict, reason_of

__all__ = ["FeatureClassifier"]

MONAI_RESNET = "ResNet"
# Arguments with which timm reads files or the network; weights come by `load_trunk`, and a definition from a file.
REFUSED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "num_classes")


class FeatureClassifier(nn.Module):
    """Images [B, 3, side, side] in [-1, 1] to logits [B, num_classes], by way of pooled features [B, D].

    Args:
        trunk: a name that `timm.list_models()` has, or "ResNet" for monai.networks.nets.ResNet.
        num_classes: number of classes; 0 for features alone.
        side: height and width of the images.
        dropout: share of the pooled features dropped before the last layer, in training.
        input_side: the size images are resized to before the trunk sees them, bicubic; None leaves them as they are.
        arguments: further arguments of the trunk.

    Attributes:
        head: the linear layer from features to logits, or Identity.
        dropout: the layer before it.

    Raises:
        ValueError: an unknown trunk, or arguments it refuses.
    """

    def __init__(
        self,
        trunk: str,
        num_classes: int,
        side: int,
        dropout: float = 0.0,
        input_side: int | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        arguments = dict(arguments or {})
        refused = [name for name in REFUSED if name in arguments]
        if refused:
            raise ValueError(
                f"{refused[0]!r} can't be an argument of the trunk {trunk}: weights are given by their file"
            )
        self.side = side
        self.input_side = input_side or side
        mean, std = (0.5,) * 3, (0.5,) * 3
        try:
            if trunk == MONAI_RESNET:
                self.trunk = ResNet(**arguments)
                features, self.trunk.fc = self.trunk.fc.in_features, nn.Identity()
            else:
                config = known_model(trunk)
                if config.fixed_input_size:
                    arguments.setdefault("img_size", self.input_side)
                self.trunk = timm.create_model(trunk, pretrained=False, num_classes=0, **arguments)
                features, mean, std = self.trunk.num_features, config.mean, config.std
        except (TypeError, AssertionError) as error:
            raise ValueError(f"the trunk {trunk} refuses its arguments {arguments}: {error}") from error
        # What the trunk's published weights were trained with; for others as good as any.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_classes) if num_classes else nn.Identity()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features [B, D].

        Raises:
            ValueError: images of another size.
        """
        if images.shape[-2:] != (self.side, self.side):
            raise ValueError(f"the images are {tuple(images.shape[-2:])}, the network takes {self.side} x {self.side}")
        if self.input_side != self.side:
            size = (self.input_side, self.input_side)
            images = interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        return self.trunk((images * 0.5 + 0.5 - self.mean) / self.std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.features(images)))

    def load_trunk(self, path: str | Path) -> None:
        """Starts from published or own weights of the trunk: `.safetensors`, or a state dict that `weights_only` reads.

        A head of other classes is left out.

        Raises:
            FileNotFoundError, ValueError: no such file, unreadable, or weights of another architecture; names tensors.
        """
        load_trunk(self.trunk, path)


def load_trunk(trunk: nn.Module, path: str | Path) -> None:
    """Loads a file of weights into a network of timm's or MONAI's; see :meth:`FeatureClassifier.load_trunk`."""
    weights = read_state(path)
    # What timm itself does to published weights: renames, and resamples the embedding of another image size.
    adapt = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:
        try:
            weights = adapt(weights, trunk)
        except Exception as error:
            raise ValueError(f"{path} can't be read as weights ({reason_of(error)}); is it complete?") from error
    own = trunk.state_dict()
    found = {name: tensor for name, tensor in weights.items() if name in own}
    wrong = [name for name in own if name not in found or found[name].shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"{path} has other weights than this trunk: {len(wrong)} of {len(own)} tensors are missing or have "
            f"another shape, such as {', '.join(wrong[:3])}. Name the trunk they are of"
        )
    trunk.load_state_dict(found)


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict of a published file, found as timm finds it: by itself, or under "state_dict" or "model".

    Raises:
        FileNotFoundError, ValueError: no such file, or not one of names with a tensor each.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights {str(path)!r}: give the file that holds them")
    try:
        weights = timm.models.load_state_dict(path, device="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} can't be read as weights ({reason_of(error)}); is it complete?") from error
    if not is_state_dict(weights):
        raise ValueError(f"{path} is no state dict, names with a tensor each: save the weights of the trunk alone")
    return weights


def known_model(name: str) -> Any:
    """timm's configuration of a model, by a name it lists itself; names of the hub would be downloaded.

    Args:
        name: such as "vit_base_patch16_224", or with the tag of published weights, "vit_base_patch16_224.dino", whose
            mean and standard deviation of colours are then those of the tag.

    Raises:
        ValueError: an unknown name or tag.
    """
    base, names = name.split(".")[0], timm.list_models()
    if base not in names:
        close = ", ".join(difflib.get_close_matches(base, names, n=5))
        raise ValueError(f"timm has no model {name!r}" + (f"; similar: {close}" if close else ""))
    if name != base and name not in timm.list_models(f"{base}.*", pretrained=True):
        raise ValueError(
            f"timm has no weights {name!r}: it has {', '.join(timm.list_models(f'{base}.*', pretrained=True))}"
        )
    return timm.get_pretrained_cfg(name, allow_unregistered=False) or timm.models.PretrainedCfg()
