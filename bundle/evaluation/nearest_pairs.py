"""The nearest training image of each synthetic one: as a table, and as pictures for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bundle.data.marks import TRAINED_ALGORITHMIC_MEDIA, save_marked_png
from bundle.data.pictures import tile
from bundle.data.transforms import orient
from bundle.evaluation.sets import ImageSet
from bundle.runs.tables import write_rows

COLUMNS = (
    "file",
    "class",
    "nearest_file",
    "pixel_distance",
    "pixel_ratio",
    "orientation",
    "flagged",
    "identical",
    "nearest_file_in_features",
    "feature_distance",
    "feature_ratio",
    "authentic",
)


def write_table(path: Path, synthetic: ImageSet, training: ImageSet, found: dict[str, np.ndarray]) -> None:
    """Writes a row of each synthetic image.

    Args:
        path: of the CSV file.
        synthetic, training: the sets.
        found: an array [N] of each of `COLUMNS` but "file" and "class"; places in `training` instead of its files.
            Distances in pixels are root mean squares in 8-bit levels.
    """
    rows: list[Sequence[str]] = [COLUMNS]
    for place, (file, label) in enumerate(zip(synthetic.files, synthetic.labels)):
        row = {name: values[place] for name, values in found.items()}
        for name in ("nearest_file", "nearest_file_in_features"):
            row[name] = training.files[row[name]]
        for name in ("flagged", "identical", "authentic"):
            row[name] = str(bool(row[name])).lower()
        for name in ("pixel_distance", "pixel_ratio", "feature_distance", "feature_ratio"):
            row[name] = f"{row[name]:.6g}"
        row |= {"file": file, "class": synthetic.classes[label]}
        rows.append([row[name] for name in COLUMNS])
    write_rows(path, rows)


def save_gallery(
    path: Path, synthetic: ImageSet, training: ImageSet, found: dict[str, np.ndarray], shown: int, columns: int = 4
) -> None:
    """Writes a PNG of synthetic images, each beside its nearest training image, turned likewise.

    Those that are flagged come first; then the classes take turns, the smallest ratio of each first, or glass would
    fill the gallery. The file is marked as synthetic; it shows real tiles too.

    Args:
        path: of the PNG file.
        synthetic, training, found: as of :func:`write_table`.
        shown: pairs.
        columns: pairs side by side.
    """
    order = np.argsort(found["pixel_ratio"], kind="stable")
    turns = np.empty(len(order), np.int64)
    for label in range(len(synthetic.classes)):
        own = order[synthetic.labels[order] == label]
        turns[own] = np.arange(len(own))
    places = np.lexsort((found["pixel_ratio"], turns, ~found["flagged"]))[:shown]
    turned = [
        orient(training.read(int(found["nearest_file"][place])), int(found["orientation"][place])) for place in places
    ]
    pairs = torch.cat([synthetic.images(places), torch.stack(turned)], dim=3).permute(0, 2, 3, 1).numpy()
    zoom = max(1, 128 // pairs.shape[1])
    font, line = ImageFont.load_default(size=14), 20
    height, width = pairs.shape[1] * zoom, pairs.shape[2] * zoom
    sheet = Image.new("RGB", (columns * (width + 8), -(-len(places) // columns) * (height + line + 8) + line), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 2), "left: synthetic; right: its nearest training image, turned to fit", "black", font)
    for number, place in enumerate(places):
        left, top = number % columns * (width + 8), number // columns * (height + line + 8) + line
        sheet.paste(Image.fromarray(tile(pairs[number : number + 1], 1, zoom=zoom)), (left, top))
        caption = f"{synthetic.classes[synthetic.labels[place]]}  ratio {found['pixel_ratio'][place]:.2f}"
        caption += f"  distance {found['pixel_distance'][place]:.0f}" + ("  COPY" if found["flagged"][place] else "")
        draw.text((left + 2, top + height + 2), caption, "darkred" if found["flagged"][place] else "black", font)
    fields = {"Description": "Synthetic images beside real training tiles"}
    save_marked_png(path, np.asarray(sheet), TRAINED_ALGORITHMIC_MEDIA, fields)
