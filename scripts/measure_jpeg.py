"""What the compression of patches changes: distance of pre-trained features, and bytes, by quality.

    python scripts/measure_jpeg.py SLIDES --weights efficientnet-lite0.safetensors [--mpp 1.0] [--patches 300]

Fields of tissue are read from the slides and compressed. The features are those of EfficientNet-Lite0 trained on
ImageNet, before its classifier; `scripts/get_weights.py efficientnet-lite0` gets the weights. Two figures of each
quality: the mean distance of a patch's features to those of the uncompressed patch, as a share of the mean distance
between two patches; and the Fréchet distance between the compressed and the uncompressed set, beside that of two halves
of the uncompressed. Slides are mostly JPEG files themselves, so "uncompressed" is what comes out of these.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.data.slides import Slide, SlideError  # noqa: E402
from bundle.metrics.frechet import frechet_distance, principal_axes  # noqa: E402
from bundle.runs.tables import markdown_table  # noqa: E402
from bundle.slides.fields import FieldRule  # noqa: E402
from bundle.slides.overview import read_overview  # noqa: E402
from bundle.slides.slide_folder import SlideFolder  # noqa: E402
from bundle.slides.storage import Storage  # noqa: E402
from bundle.slides.tissue import TissueRule  # noqa: E402

DIRECTIONS = 64  # of the features that vary most, as a Fréchet distance of all needs more patches than features


def patches_of(slides_dir: Path, mpp: float, number: int) -> list[Image.Image]:
    """So many patches a slide, spread evenly over its tissue."""
    rule, tissue, patches = FieldRule(mpp=mpp, maximum_patches=number), TissueRule(), []
    folder = SlideFolder(slides_dir, slides_dir)
    for name, path in folder.find().items():
        try:
            slide = Slide(folder.slides_dir / path)
            scale = slide.scale(mpp, rule.patch_size)
        except SlideError as error:
            print(f"left out: {error}")
            continue
        overview, factor = read_overview(slide, tissue.mpp)
        fields, _ = rule.choose(slide, scale, tissue.find(overview, factor * slide.mpp), None, 0)
        patches += [slide.read_field(group[0].x, group[0].y, *scale[:3]) for group in rule.strata(fields, name)]
    return patches


def compressed(patch: Image.Image, storage: Storage) -> tuple[Image.Image, int]:
    content = storage.encode(patch)
    return Image.open(io.BytesIO(content)).convert("RGB"), len(content)


def features(network: torch.nn.Module, patches: list[Image.Image]) -> torch.Tensor:
    """float64 [N, D], of patches at their own size."""
    found = []
    with torch.no_grad():
        for start in range(0, len(patches), 32):
            pixels = np.stack([np.asarray(patch) for patch in patches[start : start + 32]]).transpose(0, 3, 1, 2)
            found.append(network(torch.from_numpy(pixels).float() / 127.5 - 1))  # mean and deviation 0.5
    return torch.cat(found).double()


def main() -> None:
    import timm
    from safetensors.torch import load_file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides_dir", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--mpp", type=float, default=1.0)
    parser.add_argument("--patches", type=int, default=300, help="of each slide at most")
    given = parser.parse_args()
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    network.load_state_dict(load_file(given.weights), strict=False)
    patches = patches_of(given.slides_dir, given.mpp, given.patches)
    plain = features(network, patches)
    random = np.random.default_rng(0)
    other = np.roll(random.permutation(len(plain)), 1)
    between = (plain - plain[other]).norm(dim=1).mean()
    axes = principal_axes(plain, DIRECTIONS)
    half = random.permutation(len(plain))
    halves = frechet_distance(plain[half[::2]] @ axes, plain[half[1::2]] @ axes)
    rows = []
    kinds = [("jpeg", quality, colours) for quality in (75, 85, 95) for colours in ("4:2:0", "4:4:4")]
    for kind, quality, colours in [*kinds, ("png", 95, "4:4:4")]:
        made, sizes = zip(*(compressed(patch, Storage(kind, quality, colours)) for patch in patches))
        found = features(network, list(made))
        name = f"JPEG {quality}, {colours}" if kind == "jpeg" else "PNG"
        moved = (found - plain).norm(dim=1).mean() / between
        apart = frechet_distance(found @ axes, plain @ axes)
        rows.append((name, f"{np.mean(sizes) / 1000:.0f}", f"{100 * moved:.1f} %", f"{max(apart, 0):.3f}"))
    print(f"{len(patches)} patches; Fréchet distance between two halves of them, uncompressed: {halves:.3f}")
    print(markdown_table(("stored as", "kB a patch", "moved by", "Fréchet distance"), rows))


if __name__ == "__main__":
    main()
