"""Grids show every image, at its place, unchanged."""

import numpy as np
import torch
from PIL import Image

from bundle.data.marks import read_marks
from bundle.data.pictures import save_grid, save_labelled_grid, tile, to_uint8


def test_colours_by_hand():
    images = torch.tensor([-1.0, 0.0, 1.0, 7.0]).reshape(4, 1, 1, 1).expand(4, 3, 1, 1)
    assert to_uint8(images)[:, 0, 0, 0].tolist() == [0, 128, 255, 255]


def test_images_lie_row_by_row():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(3, axis=3)
    sheet = tile(images, columns=2, gap=1, zoom=1)
    assert sheet.shape == (5, 3, 3)
    assert sheet[::2, ::2, 0].tolist() == [[0, 1], [2, 3], [4, 255]]
    assert (sheet[1] == 255).all() and (sheet[:, 1] == 255).all()


def test_only_generated_pictures_are_marked(tmp_path):
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    save_grid(tmp_path / "deep" / "plain.png", images)
    save_grid(tmp_path / "made.png", images, synthetic={"Model": "diffusion.pt"})
    assert read_marks(tmp_path / "deep" / "plain.png") == {}
    assert read_marks(tmp_path / "made.png")["Model"] == "diffusion.pt"
    plain, made = (np.array(Image.open(tmp_path / name)) for name in ("deep/plain.png", "made.png"))
    assert (plain == made).all() and (plain[0, 0] == to_uint8(images)[0, 0, 0]).all()


def test_titles_of_other_alphabets_are_drawn(tmp_path):
    drawn = []
    for name in ("Drüse", "опухоль", "опухолЪ"):  # by a font without them, the last two would be the same boxes
        save_labelled_grid(tmp_path / "grid.png", np.zeros((1, 32, 32, 3), np.uint8), [name], ["1"], {"Model": "m"})
        drawn.append(np.array(Image.open(tmp_path / "grid.png")).tobytes())
    assert len(set(drawn)) == 3
