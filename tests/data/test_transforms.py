from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

from bundle.data import stain
from bundle.data.sources import find_items, read_rgb
from bundle.data.transforms import (
    LoadPatchd,
    MacenkoNormalized,
    RandErased,
    RandOrientationd,
    RandStaind,
    ResizePatchd,
    ScalePatchd,
    resize_patch,
)


def stained_image(stains: np.ndarray, seed: int = 0, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """An image of known stain vectors [2, 3], and the densities [pixels, 2] of either stain it was made from."""
    random = np.random.default_rng(seed)
    amounts = random.uniform(0.35, 1.0, (side * side, 2))
    amounts[: side * side // 8, 1] = 0  # some of each stain alone, which are the extremes Macenko's method looks for
    amounts[side * side // 8 : side * side // 4, 0] = 0
    return stain.optical_density_to_rgb(amounts @ stains).reshape(side, side, 3), amounts


def tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb.transpose(2, 0, 1).copy())


def array(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


OTHER_STAINS = np.array([[0.60, 0.65, 0.35], [0.30, 0.75, 0.45]])


def test_load_gives_channel_first_bytes(tmp_path):
    rgb = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    data = {"image": "a.png", "label": 3}
    loaded = LoadPatchd("image", root=tmp_path)(data)
    assert loaded["image"].dtype == torch.uint8 and loaded["image"].shape == (3, 5, 7) and loaded["label"] == 3
    np.testing.assert_array_equal(array(loaded["image"]), rgb)
    assert data["image"] == "a.png"  # what was handed in is left alone
    np.testing.assert_array_equal(LoadPatchd("image")({"image": str(tmp_path / "a.png")})["image"], loaded["image"])


# Resizing


def test_the_centre_is_kept_and_nothing_resampled_without_need():
    rgb = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    resized = ResizePatchd("image", 6)({"image": tensor(rgb)})["image"]
    np.testing.assert_array_equal(array(resized), rgb[:, 1:7])
    np.testing.assert_array_equal(resize_patch(rgb.swapaxes(0, 1), 6), rgb.swapaxes(0, 1)[1:7])


def test_the_shorter_side_decides():
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 200  # the centre square
    for rgb in (wide, wide.swapaxes(0, 1)):
        assert (resize_patch(rgb, 8) == 200).all()
        assert (resize_patch(rgb, 32) == 200).all()


def test_reduction_does_not_alias():
    # One-pixel black and white stripes: sampling without a filter gives black or white, the area's mean is 127.5.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = resize_patch(stripes, 8)[1:-1, 1:-1].astype(float)
    assert abs(inner - 127.5).max() < 6


# Orientation


def test_the_eight_orientations_are_all_drawn_evenly():
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(3, 4, 4)
    expected = [
        np.rot90(base, turns, (1, 2)) for base in (image.numpy(), image.numpy()[:, :, ::-1]) for turns in range(4)
    ]
    transform = RandOrientationd("image")
    transform.set_random_state(0)
    counts = np.zeros(8)
    for _ in range(1600):
        oriented = transform({"image": image})["image"].numpy()
        matches = [(oriented == candidate).all() for candidate in expected]
        assert sum(matches) == 1
        counts[np.argmax(matches)] += 1
    assert (abs(counts - 200) < 4 * np.sqrt(200 * 7 / 8)).all()


def test_all_keys_turn_together():
    image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
    transform = RandOrientationd(["image", "mask"])
    for seed in range(8):
        transform.set_random_state(seed)
        result = transform({"image": image, "mask": image})
        assert torch.equal(result["image"], result["mask"])


# Stain variation


def test_stain_density_is_scaled_as_worked_by_hand():
    # Haematoxylin of density 1: optical density = its unit vector, so 256 exp(-v) - 1 in each channel.
    pixel = np.rint(256 * np.exp(-stain.HAEMATOXYLIN) - 1).astype(np.uint8).reshape(1, 1, 3)
    varied = stain.vary_stains(pixel, np.array([1.5, 1.0]), np.zeros(2))
    np.testing.assert_allclose(varied.ravel(), 256 * np.exp(-1.5 * stain.HAEMATOXYLIN) - 1, atol=1.5)
    unchanged = stain.vary_stains(pixel, np.array([1.0, 1.5]), np.zeros(2))  # there is no eosin in it
    np.testing.assert_allclose(unchanged.astype(int), pixel.astype(int), atol=1)


def test_a_shift_adds_density_in_tissue():
    # Mean optical density d = mean(v); the shift of eosin counts d / (d + 0.15).
    pixel = np.rint(256 * np.exp(-stain.HAEMATOXYLIN) - 1).astype(np.uint8).reshape(1, 1, 3)
    weight = stain.HAEMATOXYLIN.mean() / (stain.HAEMATOXYLIN.mean() + 0.15)
    expected = 256 * np.exp(-(stain.HAEMATOXYLIN + 0.3 * weight * stain.EOSIN)) - 1
    varied = stain.vary_stains(pixel, np.ones(2), np.array([0.0, 0.3]))
    np.testing.assert_allclose(varied.ravel(), expected, atol=1.5)


@pytest.mark.parametrize("seed", range(3))
def test_white_stays_white_and_tissue_changes(seed):
    rgb, _ = stained_image(OTHER_STAINS)
    rgb[:8] = 255
    transform = RandStaind("image", prob=1.0, scale=0.5, shift=0.3)
    transform.set_random_state(seed)
    varied = array(transform({"image": tensor(rgb)})["image"])
    assert varied.dtype == np.uint8 and varied.shape == rgb.shape
    assert (varied[:8] == 255).all()
    assert abs(varied[8:].astype(int) - rgb[8:]).mean() > 2


def test_no_change_asked_for_is_no_change():
    rgb = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    transform = RandStaind("image", prob=1.0, scale=0.0, shift=0.0)
    np.testing.assert_array_equal(array(transform({"image": tensor(rgb)})["image"]), rgb)


def test_prob_is_the_share_of_images_varied():
    rgb, _ = stained_image(OTHER_STAINS, side=8)
    transform = RandStaind("image", prob=0.25, scale=0.5, shift=0.3)
    transform.set_random_state(0)
    varied = sum(not np.array_equal(array(transform({"image": tensor(rgb)})["image"]), rgb) for _ in range(400))
    assert abs(varied - 100) < 4 * np.sqrt(400 * 0.25 * 0.75)


@pytest.mark.parametrize("setting", [{"prob": 1.5}, {"scale": 1.0}, {"scale": -0.1}, {"shift": -1}])
def test_bad_stain_settings_are_named(setting):
    name, value = next(iter(setting.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        RandStaind("image", **setting)


# Macenko


def test_macenko_finds_the_stains_an_image_was_made_of():
    rgb, _ = stained_image(OTHER_STAINS)
    found = stain.macenko_stains(stain.rgb_to_optical_density(rgb).reshape(-1, 3))
    expected = OTHER_STAINS / np.linalg.norm(OTHER_STAINS, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_macenko_does_not_depend_on_the_sign_of_its_axes(monkeypatch):
    # An eigenvector may come out with either sign, as the numerical library pleases.
    # Where the stains exclude each other, the second axis points along the mean: turned about, its angles would wrap.
    random = np.random.default_rng(0)
    share = random.uniform(0, 1, (4096, 1))
    density = np.hstack([share, 1 - share]) * random.uniform(0.9, 1.1, (4096, 1)) @ OTHER_STAINS
    expected = OTHER_STAINS / np.linalg.norm(OTHER_STAINS, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(density[(density >= 0.15).all(axis=1)].T))
    for signs in ((1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1)):
        monkeypatch.setattr(np.linalg, "eigh", lambda _, signs=signs: (values, vectors * signs))
        np.testing.assert_allclose(stain.macenko_stains(density), expected, atol=0.03)


def test_macenko_gives_the_reference_stains_at_the_reference_densities():
    rgb, amounts = stained_image(OTHER_STAINS)
    scaled = amounts * stain.MACENKO_DENSITIES / np.percentile(amounts, 99, axis=0)
    expected = stain.optical_density_to_rgb(scaled @ stain.MACENKO_STAINS).reshape(rgb.shape)
    assert abs(rgb.astype(int) - expected).mean() > 20  # there is something to do
    normalised = array(MacenkoNormalized("image")({"image": tensor(rgb)})["image"])
    assert abs(normalised.astype(int) - expected).mean() < 2


def test_macenko_keeps_white_white():
    rgb, _ = stained_image(OTHER_STAINS)
    rgb[:20] = 255
    assert (stain.macenko_normalise(rgb)[:20] == 255).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_macenko_leaves_images_without_two_stains_as_they_are(value):
    flat = np.full((16, 16, 3), value, np.uint8)
    np.testing.assert_array_equal(stain.macenko_normalise(flat), flat)
    sparse = np.full((64, 64, 3), 255, np.uint8)
    sparse[:4, :40] = stained_image(OTHER_STAINS)[0][:4, :40]  # 4 % of the pixels
    np.testing.assert_array_equal(stain.macenko_normalise(sparse), sparse)


def test_macenko_agrees_with_torchstain():
    rgb, _ = stained_image(OTHER_STAINS, seed=1)
    expected, _, _ = NumpyMacenkoNormalizer().normalize(rgb, Io=256, stains=False)
    # torchstain leaves out the offset of one on the way back, and cuts where this rounds.
    assert abs(stain.macenko_normalise(rgb).astype(int) - expected.astype(int)).max() <= 2


# All together


def test_scale_spans_minus_one_to_one():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    scaled = ScalePatchd("image")({"image": image})["image"]
    assert scaled.dtype == torch.float32
    assert scaled.flatten().tolist() == pytest.approx([-1.0, -0.6, 1.0])


def test_the_chain_depends_on_its_seed_alone(tmp_path):
    Image.fromarray(stained_image(OTHER_STAINS)[0]).save(tmp_path / "a.png")
    chain = Compose(
        [
            LoadPatchd("image", root=tmp_path),
            ResizePatchd("image", 32),
            RandOrientationd("image"),
            RandStaind("image", prob=1.0),
            ScalePatchd("image"),
        ]
    )

    def draw(seed: int) -> torch.Tensor:
        np.random.seed(np.random.randint(1000))  # the global streams must not matter
        torch.rand(1)
        chain.set_random_state(seed)
        return chain({"image": "a.png"})["image"]

    first = draw(5)
    assert first.shape == (3, 32, 32) and first.min() >= -1 and first.max() <= 1
    assert torch.equal(draw(5), first)
    assert not torch.equal(draw(6), first)


def test_macenko_brings_real_slides_closer_together():
    folder = os.environ.get("HISTODIFFUSION_DATA")
    if not folder or not Path(folder, "pretrain").is_dir():
        pytest.skip("HISTODIFFUSION_DATA does not name a folder that holds pretrain/")
    root = Path(folder, "pretrain")
    before, after = [], []
    for slide in sorted(path for path in root.iterdir() if path.is_dir()):
        patches = [read_rgb(slide, file) for file, _, _ in find_items(slide)[:40:4]]
        tissue = [patch for patch in patches if (patch < 220).all(axis=2).mean() > 0.2]
        if not tissue:
            continue
        before.append(np.mean([patch.mean(axis=(0, 1)) for patch in tissue], axis=0))
        after.append(np.mean([stain.macenko_normalise(patch).mean(axis=(0, 1)) for patch in tissue], axis=0))
    assert len(before) >= 4
    assert np.std(after, axis=0).mean() < np.std(before, axis=0).mean()


def test_erasing_fills_one_rectangle_with_noise_and_leaves_the_rest():
    image = torch.linspace(-1, 1, 3 * 50 * 50).reshape(3, 50, 50)
    erase = RandErased("image", side=50, prob=0.25)
    before, erased, sides = image.clone(), 0, []
    for seed in range(300):
        erase.set_random_state(seed)
        found = erase({"image": image, "label": 1})
        assert type(found["image"]) is torch.Tensor and found["label"] == 1 and found["image"].abs().max() <= 1
        changed = (found["image"] != image).all(0)
        if changed.any():
            erased += 1
            rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
            sides += [len(rows), len(columns)]
            inside = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert inside.all() and inside.sum() == changed.sum() == len(rows) * len(columns)
            assert found["image"][:, changed].unique().numel() > 30, "noise, and not one value"
            erase.set_random_state(seed)
            assert torch.equal(found["image"], erase({"image": image})["image"])
        else:
            assert torch.equal(found["image"], image)
    assert torch.equal(image, before), "the image given is not changed"
    assert 50 < erased < 100 and min(sides) == 7 and max(sides) == 28


@pytest.mark.parametrize("prob", [-0.1, 1.1])
def test_erasing_refuses_what_monai_would_clip(prob):
    with pytest.raises(ValueError, match=rf"--erasing_probability is {prob}; it must be in \[0, 1\]"):
        RandErased("image", side=50, prob=prob)
