"""The files that pass between stages: weights that carry their own architecture.

An artefact is one `weights_only`-loadable file. It holds the network's definition as data (a class name and its
arguments), the weights, and what a later stage must not guess (latent scale, schedule, patch size). The network is
rebuilt from the file, never from a second copy of its definition.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks import nets

from bundle.models import classifiers, feature_classifier
from bundle.models.foreign_weights import is_state_dict, reason_of
from bundle.runs.randomness import mix_seed
from bundle.runs.sums import check_sum
from bundle.runs.tensors import save_tensors

FORMAT = "histodiffusion/1"
# Of monai.networks.nets; others can be made to download files by their arguments, and a definition is read from a file.
MONAI_NETWORKS = ("AutoencoderKL", "DiffusionModelUNet", "PatchDiscriminator", "ResNet", "DenseNet", "ViT")
OWN_NETWORKS = {name: getattr(room, name) for room in (classifiers, feature_classifier) for name in room.__all__}
ARTEFACT_HEAD = {"format", "kind", "definition", "weights", "fingerprint"}  # what save_artefact writes by itself


@contextlib.contextmanager
def complete(origin: str | Path) -> Iterator[None]:
    """Around what takes facts from files: one that is missing, or none at all, is an error that names where it lacks.

    Raises:
        ValueError: as said.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{origin} is incomplete or made by something else ({error!r}): copy it again, or train again"
        ) from error


def build(definition: functools.partial, seed: int = 0, device: torch.device | str = "cpu") -> torch.nn.Module:
    """Builds a network from a config item with `"_mode_": "callable"` and remembers how, for the artefact.

    Args:
        definition: a network class with all its arguments bound.
        seed: seed of its initial weights; torch's own random state is left as it was.
        device: where it goes once they are drawn.

    Returns:
        the network; its `definition` attribute is `{"_target_": class name, **arguments}`.
    """
    described = {"_target_": definition.func.__name__, **definition.keywords}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed))
        return build_from_definition(described, (definition.func,)).to(device)


def build_alike(network: torch.nn.Module) -> torch.nn.Module:
    """Another network of the same class and arguments, with weights of its own."""
    return build_from_definition(network.definition, (type(network),))


def build_from_definition(definition: dict[str, Any], also: Sequence[type] = ()) -> torch.nn.Module:
    """Rebuilds a network from `{"_target_": class name, **arguments}`.

    Only `MONAI_NETWORKS`, `OWN_NETWORKS` and the classes of `also` are accepted: a definition comes out of a file, and
    a file must not be able to call anything else.

    Raises:
        ValueError: another class, or arguments the class refuses.
    """
    try:
        arguments = dict(definition)
        name = str(arguments.pop("_target_"))
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{definition!r:.200} does not define a network: it has no class and arguments") from error
    classes = OWN_NETWORKS | {network.__name__: network for network in also}
    allowed = (*MONAI_NETWORKS, *classes)
    if name not in allowed:
        raise ValueError(f"{name!r} is not one of the networks that can be built: {', '.join(allowed)}")
    network_class = classes[name] if name in classes else getattr(nets, name)
    try:
        network = network_class(**arguments)
    except Exception as error:  # of a library that meets what a file says
        raise ValueError(f"{name} refuses its arguments {arguments}: {reason_of(error)}") from error
    network.definition = definition
    return network


def fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes, types and values of a state dict; the identity of a trained network."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_artefact(path: str | Path, kind: str, network: torch.nn.Module, weights: dict | None = None, **facts) -> Path:
    """Writes an artefact atomically. `weights` defaults to the network's own; `facts` are plain data or tensors."""
    weights = network.state_dict() if weights is None else weights
    weights = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    content = {
        "format": FORMAT,
        "kind": kind,
        "definition": network.definition,
        "weights": weights,
        "fingerprint": fingerprint(weights),
        **facts,
    }
    return save_tensors(path, content)


def read_artefact(path: str | Path, kind: str) -> dict[str, Any]:
    """Reads an artefact without building its network.

    Raises:
        FileNotFoundError: no such file; the message names the stage that makes it.
        ValueError: not an artefact, one of another kind, or not the file that the `SHA256SUMS` beside it records.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: it holds the {kind}, which the stage that trains it writes")
    check_sum(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} can't be read as weights ({reason_of(error)}); is it complete?") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} is not an artefact of this bundle: its format is {found!r}, expected {FORMAT!r}")
    missing = sorted(ARTEFACT_HEAD - content.keys())
    if missing:
        raise ValueError(f"{path} lacks its {missing[0]}: it is incomplete, so copy it again, or train again")
    if content["kind"] != kind:
        raise ValueError(f"{path} holds a {content['kind']}, expected a {kind}")
    if not is_state_dict(content["weights"]):
        raise ValueError(f"{path}: its weights are no names with a tensor each. Copy it again, or train again")
    return content


def load_artefact(path: str | Path, kind: str, also: Sequence[type] = ()) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Reads an artefact and rebuilds its network in evaluation mode with fp32 weights.

    Args:
        path: the file.
        kind: what it must hold.
        also: network classes of the caller's that it may be made of, see `build_from_definition`.

    Returns:
        the network on the CPU, and the file's content without its weights.
    """
    content = read_artefact(path, kind)
    network = build_from_definition(content["definition"], also)
    load_weights(network, content.pop("weights"), path)
    return network.eval(), content


def load_weights(
    network: torch.nn.Module, weights: dict[str, torch.Tensor], origin: str | Path, assign: bool = False
) -> None:
    """Loads weights into a network, or says which tensors differ.

    Args:
        network: the network.
        weights: all of its tensors.
        origin: where they are from, for messages.
        assign: whether the network takes the tensors themselves, as one that was built without memory must.

    Raises:
        ValueError: missing, unexpected or differently shaped tensors, with both sides named.
    """
    if not is_state_dict(weights):
        raise ValueError(f"{origin} holds no names with a tensor each, as the weights of a network are")
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if own != given:
        wrong = [name for name in sorted(own.keys() | given.keys()) if own.get(name) != given.get(name)]
        shown = ", ".join(f"{name}: file {given.get(name)}, network {own.get(name)}" for name in wrong[:4])
        raise ValueError(f"{origin} was made for another architecture: {len(wrong)} tensors differ ({shown})")
    network.load_state_dict(weights, assign=assign)


def require_same(what: str, left_name: str, left: Any, right_name: str, right: Any) -> None:
    """Refuses two artefacts that don't belong together, both sides named."""
    if left != right:
        raise ValueError(
            f"{what} differs: {left_name} has {left}, {right_name} has {right}; they don't belong together"
        )
