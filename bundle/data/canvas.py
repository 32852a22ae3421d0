"""A square field with the drawing tools of the procedural patches; lengths in micrometres."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.sparse import csr_array

FIELD_OF_VIEW = 128.0  # micrometres along each side of a patch, as in NCT-CRC-HE


class Canvas:
    """A square field of ``pixels`` by ``pixels`` with the drawing tools the classes share; lengths in micrometres."""

    def __init__(self, pixels: int, random: np.random.Generator) -> None:
        self.pixels = pixels
        self.pitch = FIELD_OF_VIEW / pixels
        self.random = random
        centres = ((np.arange(pixels) + 0.5) * self.pitch).astype(np.float32)
        self.x, self.y = centres[None, :], centres[:, None]

    def between(self, low: float, high: float, count: int | None = None) -> np.ndarray | float:
        """Uniform draws."""
        return self.random.uniform(low, high, count)

    def noise(self, wavelength: float) -> np.ndarray:
        """Smooth Gaussian noise [pixels, pixels] of about zero mean and unit deviation."""
        weights = _spline_weights(self.pixels, wavelength)
        grid = self.random.standard_normal((weights.shape[1], weights.shape[1])).astype(np.float32)
        return np.ascontiguousarray((weights @ (weights @ grid).T).T)

    def streaks(self, along: np.ndarray, across: np.ndarray, length: float, width: float) -> np.ndarray:
        """Noise stretched to ``length`` by ``width`` in the coordinates (along, across), about unit deviation."""
        table = self.random.standard_normal((64, 64)).astype(np.float32) * 1.5
        return map_coordinates(table, [across / width, along / length], order=1, mode="grid-wrap", prefilter=False)

    def scatter(self, spacing: float, jitter: float = 0.35, margin: float = 8.0) -> np.ndarray:
        """Points [n, 2] as (x, y), evenly but not regularly spread, up to ``margin`` beyond the field."""
        count = int(np.ceil((FIELD_OF_VIEW + 2 * margin) / spacing)) + 1
        column, row = np.meshgrid(np.arange(count), np.arange(count))
        points = np.stack([column + 0.5 * (row % 2), row], axis=-1).reshape(-1, 2).astype(np.float64)
        points += self.random.uniform(-jitter, jitter, points.shape) + self.random.uniform(-0.75, -0.25, 2)
        return points * spacing - margin

    def at(self, field: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The values [n] of a field at points [n, 2]; beyond the edge, those of the edge."""
        column, row = np.clip((points / self.pitch).astype(int), 0, self.pixels - 1).T
        return field[row, column]

    def slope(self, field: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The direction [n], in radians, in which a field rises at points [n, 2]."""
        vertical, horizontal = np.gradient(field)
        return np.arctan2(self.at(vertical, points), self.at(horizontal, points))

    def ellipses(
        self,
        points: np.ndarray,
        length: np.ndarray | float,
        width: np.ndarray | float,
        angle: np.ndarray | float = 0.0,
        strength: np.ndarray | float = 1.0,
        edge: float = 0.9,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        """Filled ellipses with soft edges at points [n, 2], the strongest winning where they overlap.

        ``length`` and ``width`` are semi-axes, ``angle`` that of the length; each one number or [n]. ``keep``, bool
        [n], leaves points out: draw for all points and then keep some, or the draws depend on the resolution.
        """
        keep = np.ones(len(points), bool) if keep is None else keep
        canvas = np.zeros(self.pixels * self.pixels, np.float32)
        if not keep.any():
            return canvas.reshape(self.pixels, self.pixels)
        length, width, angle, strength = (
            np.broadcast_to(np.asarray(value, np.float32), len(points))[keep, None, None]
            for value in (length, width, angle, strength)
        )
        points, edge = points[keep], max(edge, self.pitch)
        half = int(np.ceil((max(length.max(), width.max()) + edge) / self.pitch))
        reach = np.arange(-half, half + 1)
        column = np.floor(points[:, 0] / self.pitch).astype(int)[:, None, None] + reach[None, None, :]
        row = np.floor(points[:, 1] / self.pitch).astype(int)[:, None, None] + reach[None, :, None]
        right = ((column + 0.5) * self.pitch - points[:, 0, None, None]).astype(np.float32)
        down = ((row + 0.5) * self.pitch - points[:, 1, None, None]).astype(np.float32)
        cosine, sine = np.cos(angle), np.sin(angle)
        radius = np.hypot((right * cosine + down * sine) / length, (down * cosine - right * sine) / width)
        cover = strength * np.clip((1 - radius) * np.minimum(length, width) / edge + 0.5, 0, 1)
        drawn = (cover > 0) & (column >= 0) & (column < self.pixels) & (row >= 0) & (row < self.pixels)
        np.maximum.at(canvas, (row * self.pixels + column)[drawn], cover[drawn])
        return canvas.reshape(self.pixels, self.pixels)

    def depth_in_cells(self, points: np.ndarray, waviness: float, rounding: float) -> np.ndarray:
        """Depth inside the Voronoi cells of points [n, 2]: 0 on the walls, corners rounded by ``rounding``."""
        x, y = self.x + waviness * self.noise(32), self.y + waviness * self.noise(32)
        points = points.astype(np.float32)
        square = (x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2
        nearest = square.argmin(axis=0)
        apart = np.linalg.norm(points[:, None] - points[None, :], axis=-1)
        np.fill_diagonal(apart, np.inf)
        # Distance to the wall shared with each other cell; a soft minimum over them rounds the corners.
        walls = (square - square.min(axis=0)) / (2 * apart[:, nearest])
        return np.maximum(-rounding * np.log(np.exp(-walls / rounding).sum(axis=0) - 1 + 1e-12), 0)

    def lymphocytes(self, spacing: float, allowed: np.ndarray | None = None, share: float = 1.0) -> np.ndarray:
        """Small round dark nuclei, on the allowed part of the field (bool [pixels, pixels])."""
        points = self.scatter(spacing)
        keep = self.random.random(len(points)) < share
        if allowed is not None:
            keep &= self.at(allowed, points)
        radius = self.between(2.2, 3.0, len(points))
        strength = self.between(0.65, 1.15, len(points))
        length = radius * self.between(1, 1.25, len(points))
        return self.ellipses(points, length, radius, self.angles(points), strength, keep=keep)

    def angles(self, points: np.ndarray) -> np.ndarray:
        return self.between(0, np.pi, len(points))


Maps = tuple[np.ndarray, np.ndarray]  # haematoxylin, eosin


@lru_cache(maxsize=64)
def _spline_weights(pixels: int, wavelength: float) -> csr_array:
    """Cubic B-spline weights [pixels, nodes], scaled so that noise made with them on both axes has unit deviation.

    Sparse, as each row has four; and threaded matrix products of this size are slow, and sum in an order of their own.
    """
    position = (np.arange(pixels) + 0.5) / pixels * FIELD_OF_VIEW / wavelength + 1
    distance = np.abs(position[:, None] - np.arange(int(np.ceil(FIELD_OF_VIEW / wavelength)) + 3))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return csr_array((np.where(distance < 1, near, far) / np.sqrt(0.479)).astype(np.float32))


def step(field: np.ndarray, width: float) -> np.ndarray:
    """0 below -width / 2, 1 above width / 2, and a ramp between."""
    return np.clip(field / width + 0.5, 0, 1)
