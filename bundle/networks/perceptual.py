"""Perceptual distances whose weights come from this machine, never from a download.

The distance is that of Zhang et al., LPIPS (arXiv 1801.03924, Eq. 1): per layer, activations divided by their channel
norm, squared differences summed over channels (with the learned channel weights where the network is LPIPS itself)
and averaged over positions; layers are summed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import lpips
import torch
from torch import nn

VGG_FILE = "vgg16-397923af.pth"  # torchvision's VGG-16 of ImageNet, the backbone of LPIPS

HELP = (
    "pass --perceptual_weights PATH to a local copy, or choose another network: --perceptual_network torchscript or "
    "the name of a timm model, each with --perceptual_weights PATH, or --perceptual_network random for fixed random "
    "features (needs no weights; reconstructions are less true to texture than with LPIPS)"
)


class PerceptualDistance(nn.Module):
    """Distance between two images in the features of a frozen network.

    Args:
        network: "lpips" (VGG-16 with the LPIPS channel weights), "random" (a small fixed convolutional network with
            seeded random weights), "torchscript" (a scripted module that returns a feature map [B, C, h, w] or a
            list of them), or the name of a timm model.
        weights: path of the weights. For "lpips" the VGG-16 state dict, by default looked for in torch's local cache.

    Nothing is read before :meth:`load`, which a trainer calls before anything else and :meth:`forward` where need be.
    """

    def __init__(self, network: str = "lpips", weights: str | Path | None = None) -> None:
        super().__init__()
        self.network = network
        self.weights = weights
        self.features: nn.Module | None = None

    def load(self) -> PerceptualDistance:
        """Reads the weights, once.

        Raises:
            FileNotFoundError: they are not to be found; says which flag supplies them.
        """
        if self.features is not None:
            return self
        if self.network == "lpips":
            self.features = LPIPS(find_vgg_weights(self.weights))
        elif self.network == "random":
            self.features = RandomFeatures()
        elif self.weights is None or not Path(self.weights).is_file():
            raise FileNotFoundError(f"no weights for the perceptual network {self.network!r} at {self.weights}: {HELP}")
        elif self.network == "torchscript":
            self.features = torch.jit.load(str(self.weights), map_location="cpu")
        else:
            self.features = TimmFeatures(self.network, self.weights)
        return self.eval().requires_grad_(False)

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
            one, other = (lpips.normalize_tensor(features.float()) for features in (one, other))
            total = total + (one - other).square().sum(1).mean((1, 2))
        return total


class LPIPS(nn.Module):
    """The lpips package's VGG distance with a backbone read from a local file."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        # pnet_rand keeps the package from downloading the backbone; its own channel weights come with the package.
        self.distance = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        state = torch.load(weights, map_location="cpu", weights_only=True)
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

    def __init__(self, name: str, weights: str | Path) -> None:
        super().__init__()
        import timm
        from timm.data import resolve_data_config
        from timm.models import load_state_dict

        self.model = timm.create_model(name, pretrained=False, features_only=True)
        state = load_state_dict(str(weights), use_ema=False, device="cpu", weights_only=True)
        outcome = self.model.load_state_dict(state, strict=False)
        if outcome.missing_keys:
            raise ValueError(
                f"{weights} lacks {len(outcome.missing_keys)} tensors of {name}: {outcome.missing_keys[:3]}"
            )
        config = resolve_data_config({}, model=self.model)
        self.register_buffer("mean", torch.tensor(config["mean"]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).reshape(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.model(((images + 1) / 2 - self.mean) / self.std)


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


def find_vgg_weights(weights: str | Path | None) -> Path:
    """The given path, or torchvision's VGG-16 file in torch's local cache."""
    path = Path(weights) if weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"the VGG-16 weights of LPIPS are not at {path}: {HELP}")
    # torchvision names its files by the first eight digits of their SHA-256.
    if path.name == VGG_FILE and not hashlib.sha256(path.read_bytes()).hexdigest().startswith("397923af"):
        raise ValueError(f"{path} does not have the SHA-256 its name promises; it is damaged or was replaced")
    return path


def as_list(features: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
    return [features] if isinstance(features, torch.Tensor) else list(features)
