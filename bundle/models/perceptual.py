"""Perceptual distances whose weights come from this machine, never from a download.

The distance is that of Zhang et al., LPIPS (arXiv 1801.03924, Eq. 1): per layer, activations divided by their channel
norm, squared differences summed over channels (with the learned channel weights where the network is LPIPS itself)
and averaged over positions; layers are summed.
"""

from __future__ import annotations

from pathlib import Path

import lpips
import torch
from torch import nn

from bundle.models.feature_classifier import known_model, load_trunk
from bundle.models.foreign_weights import read_weights
from bundle.models.torchscript import WHY_SHA256, load_torchscript
from bundle.runs.sums import require_sha256

# torchvision's VGG-16 of ImageNet, the backbone of LPIPS. Its name holds the first eight digits of its SHA-256.
VGG_SHA256 = "397923af"
VGG_FILE = f"vgg16-{VGG_SHA256}.pth"

HELP = (
    "pass --perceptual_weights PATH to a local copy, or choose another network: --perceptual_network torchscript (with "
    "--perceptual_sha256) or the name of a timm model, each with --perceptual_weights PATH, or --perceptual_network "
    "random for fixed random features (needs no weights; reconstructions are less true to texture than with LPIPS)"
)


class PerceptualDistance(nn.Module):
    """Distance between two images in the features of a frozen network.

    Args:
        network: "lpips" (VGG-16 with the LPIPS channel weights), "random" (a small fixed convolutional network with
            seeded random weights), "torchscript" (a scripted module that takes images in [-1, 1] and returns a feature
            map [B, C, h, w] or a list of them), or the name of a timm model.
        weights: path of the weights. For "lpips" the VGG-16 state dict, by default looked for in torch's local cache.
        sha256: of the file of the weights. It is checked where it is given, and "torchscript" needs it: such a file is
            a program and runs with all that you may do.

    Nothing is read before :meth:`load`, which a trainer calls before anything else and :meth:`forward` where need be.
    """

    def __init__(self, network: str = "lpips", weights: str | Path | None = None, sha256: str | None = None) -> None:
        super().__init__()
        self.network = network
        self.weights = weights
        self.given_sha256 = sha256
        self.sha256: str | None = None
        self.features: nn.Module | None = None

    def load(self) -> PerceptualDistance:
        """Reads the weights, once.

        Raises:
            FileNotFoundError: they are not to be found; says which flag supplies them.
            ValueError: another file than the SHA-256 says, a TorchScript file without one, a network that timm has not,
                or weights that are none or of another network.
        """
        if self.features is not None:
            return self
        if self.network == "random":
            self.features = RandomFeatures()
            return self.eval().requires_grad_(False)
        if self.network == "lpips" and self.weights is None:
            path = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
        else:
            path = Path(self.weights or "(no path given)")
        if not path.is_file():
            raise FileNotFoundError(f"the weights of the perceptual network {self.network!r} are not at {path}: {HELP}")
        if self.network == "torchscript" and self.given_sha256 is None:
            raise ValueError(f"the perceptual network 'torchscript', {path}, lacks --perceptual_sha256 ({WHY_SHA256})")
        self.sha256 = require_sha256(path, self.given_sha256, f"the perceptual network {self.network!r}")
        if self.network == "lpips":
            self.features = LPIPS(path)
        elif self.network == "torchscript":
            self.features = load_torchscript(path)
        else:
            self.features = TimmFeatures(self.network, path)
        return self.eval().requires_grad_(False)

    @property
    def name(self) -> str:
        """What the distance may be called: "lpips" only with the weights that LPIPS was published with."""
        other = self.network == "lpips" and not (self.sha256 or "").startswith(VGG_SHA256)
        return "lpips with other weights" if other else self.network

    def describe(self) -> dict[str, str | None]:
        """The network and the SHA-256 of its weights' file."""
        self.load()
        return {"network": self.network, "sha256": self.sha256}

    def train(self, mode: bool = True) -> PerceptualDistance:
        return super().train(False)  # a distance must not depend on the mode of the trainer that holds it

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distance of each pair.

        Args:
            first, second: RGB images [B, 3, H, W] in [-1, 1].

        Returns:
            fp32 [B], 0 for equal images.
        """
        self.load().to(first.device)
        if isinstance(self.features, LPIPS):
            return self.features(first, second)
        total = torch.zeros(len(first), device=first.device)
        for one, other in zip(as_list(self.features(first)), as_list(self.features(second))):
            if one.ndim != 4:
                raise ValueError(
                    f"the perceptual network {self.network!r} returns shape {tuple(one.shape)}, which is no feature "
                    "map [B, C, h, w]: leave its pooling and head out"
                )
            one, other = (lpips.normalize_tensor(features.float()) for features in (one, other))
            total = total + (one - other).square().sum(1).mean((1, 2))
        return total


class LPIPS(nn.Module):
    """The lpips package's VGG distance with a backbone read from a local file."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        state = read_weights(weights)
        # pnet_rand keeps the package from downloading the backbone; its own channel weights come with the package.
        self.distance = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        slices = [getattr(self.distance.net, f"slice{number}") for number in range(1, 6)]
        own = {f"features.{name}": parameter for part in slices for name, parameter in part.state_dict().items()}
        missing = [name for name in own if name not in state or state[name].shape != own[name].shape]
        if missing:
            raise ValueError(f"{weights} is not a torchvision VGG-16 state dict: {missing[:3]} are missing or differ")
        for name, parameter in own.items():
            parameter.copy_(state[name])

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.distance(first, second).flatten()


class TimmFeatures(nn.Module):
    """Feature maps of a timm model, its weights read from a local file."""

    def __init__(self, name: str, weights: Path) -> None:
        super().__init__()
        import timm
        from timm.data import resolve_data_config

        known_model(name)  # others timm would look for on its hub
        self.model = timm.create_model(name, pretrained=False, num_classes=0)  # the head is not needed
        if not hasattr(self.model, "forward_intermediates"):
            raise ValueError(
                f"timm gives no feature maps of {name}: script it, and use --perceptual_network torchscript"
            )
        load_trunk(self.model, weights)
        config = resolve_data_config({}, model=self.model)
        # A transformer has one image size.
        self.size = config["input_size"][-1] if getattr(self.model, "pos_embed", None) is not None else None
        self.register_buffer("mean", torch.tensor(config["mean"]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).reshape(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        images = ((images + 1) / 2 - self.mean) / self.std
        if self.size is not None:
            images = nn.functional.interpolate(images, self.size, mode="bicubic", antialias=True)
        return self.model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")


class RandomFeatures(nn.Module):
    """Three convolutional layers of seeded random filters: a texture-sensitive distance that needs no weights."""

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList()
        incoming = 3
        for level, outgoing in enumerate(channels):
            layer = nn.Conv2d(incoming, outgoing, 3, stride=1 if level == 0 else 2, padding=1)
            with torch.no_grad():
                layer.weight.normal_(0, (2 / (9 * incoming)) ** 0.5, generator=generator)
                layer.bias.normal_(0, 0.1, generator=generator)
            self.layers.append(layer)
            incoming = outgoing

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for layer in self.layers:
            images = torch.relu(layer(images))
            features.append(images)
        return features


def as_list(features: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
    return [features] if isinstance(features, torch.Tensor) else list(features)
