"""The architectures of the procedural patches: maps of haematoxylin and eosin for nine classes.

Everything is laid out in micrometres on a field of 128 um, with all random draws independent of the resolution, so
that a patch shows the same structures at every size. These are drawings after the textbook, not tissue.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bundle.data.canvas import FIELD_OF_VIEW, Canvas, Maps, step


def adipose(canvas: Canvas) -> Maps:
    """Large empty cells with thin walls, and a few flat nuclei on them."""
    depth = canvas.depth_in_cells(
        canvas.scatter(canvas.between(42, 70), jitter=0.3, margin=35), canvas.between(2, 5), canvas.between(1, 2.2)
    )
    thickness = canvas.between(0.7, 1.4) * (1 + 0.35 * canvas.noise(20))
    wall = np.exp(-((depth / np.maximum(thickness, 0.4)) ** 2)) * np.clip(0.85 + 0.25 * canvas.noise(5), 0.2, None)
    fold = np.exp(-((canvas.noise(40) / 0.05) ** 2)) * step(canvas.noise(40) - 0.6, 0.5)  # membranes cut flat
    points = canvas.scatter(9)
    keep = (canvas.at(depth, points) < 2.5) & (canvas.random.random(len(points)) < canvas.between(0.05, 0.3))
    nuclei = canvas.ellipses(
        points,
        canvas.between(3, 5.5, len(points)),
        canvas.between(1.1, 1.9, len(points)),
        canvas.slope(depth, points) + np.pi / 2,
        0.9,
        keep=keep,
    )
    return 0.16 * wall + nuclei, canvas.between(0.3, 0.6) * wall + 0.12 * fold + 0.02


def background(canvas: Canvas) -> Maps:
    """Bare glass: a faint gradient and specks of dust."""
    direction = canvas.between(0, 2 * np.pi)
    gradient = (np.cos(direction) * canvas.x + np.sin(direction) * canvas.y) / FIELD_OF_VIEW
    points = canvas.between(0, FIELD_OF_VIEW, (canvas.random.integers(0, 7), 2))
    radius = canvas.between(0.6, 2.2, len(points))
    dust = canvas.ellipses(points, radius, radius * 0.8, canvas.angles(points), canvas.between(0.05, 0.3, len(points)))
    haze = np.abs(0.02 * gradient) + 0.006 * np.abs(canvas.noise(40))
    return haze + dust, 0.6 * haze + 0.5 * dust


def debris(canvas: Canvas) -> Maps:
    """Necrosis: granular eosinophilic fragments without architecture, strewn with nuclear dust."""
    clumps = 0.7 * canvas.noise(canvas.between(16, 26)) + 0.5 * canvas.noise(7)
    solid = step(clumps + canvas.between(0.3, 1.1), 0.5)
    grain = 0.5 * canvas.noise(2.2) + 0.4 * canvas.noise(4)
    points = canvas.scatter(canvas.between(4.2, 6), jitter=0.9)
    dusty = canvas.noise(22) + canvas.between(-0.5, 0.3)
    keep = canvas.at(dusty, points) > canvas.random.random(len(points)) * 1.2
    radius = canvas.random.gamma(3, 0.33, len(points)) + 0.4  # karyorrhexis: fragments of every size
    strength = canvas.between(0.4, 1.4, len(points))
    dust = canvas.ellipses(points, radius * 1.3, radius, canvas.angles(points), strength, keep=keep)
    ghosts = canvas.scatter(13)
    ghost = canvas.ellipses(ghosts, 5, 4, canvas.angles(ghosts), canvas.between(0, 0.3, len(ghosts)), edge=2)
    haematoxylin = solid * (0.12 + 0.06 * grain + 0.6 * ghost) + dust * (0.3 + 0.7 * solid)
    return haematoxylin, solid * (0.62 + 0.25 * grain + 0.12 * canvas.noise(12)) + 0.03


def lymphocytes(canvas: Canvas) -> Maps:
    """A sheet of small round dark nuclei with scant cytoplasm."""
    gap = step(canvas.noise(14) + 0.5 * canvas.noise(5) - canvas.between(1.4, 2.4), 0.4)
    nuclei = canvas.lymphocytes(canvas.between(6.3, 8.0), gap < 0.3, canvas.between(0.85, 0.97))
    large = canvas.scatter(24)
    large = large[canvas.random.random(len(large)) < canvas.between(0, 0.5)]
    pale = canvas.ellipses(large, 4.8, 4, canvas.angles(large), canvas.between(0.4, 0.6, len(large)))
    body = (1 - gap) * np.clip(0.38 + 0.14 * canvas.noise(5), 0.05, None)
    return 0.5 * body + np.maximum(nuclei * (1 + 0.18 * canvas.noise(2.5)), pale), body + 0.15 * nuclei


def mucus(canvas: Canvas) -> Maps:
    """Pale pools with thin wavy strands, and a few floating cells."""
    angle, stretch = canvas.between(0, np.pi), canvas.between(1.2, 3)
    drift = canvas.between(5, 10)
    x, y = canvas.x + drift * canvas.noise(40), canvas.y + drift * canvas.noise(40)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    strand = np.zeros((canvas.pixels, canvas.pixels), np.float32)
    for spacing in (9, 18, 34):
        ridge = np.abs(canvas.streaks(along, across, spacing * stretch, spacing))
        strand = np.maximum(strand, np.exp(-((ridge * spacing / canvas.between(1.2, 2.2)) ** 2)))
    strand = strand * np.clip(0.55 + 0.4 * canvas.noise(30), 0.05, None)
    points = canvas.scatter(9, jitter=0.6)
    crowd = canvas.at(np.exp(canvas.noise(30)) * (0.3 + strand), points)
    keep = canvas.random.random(len(points)) < canvas.between(0.04, 0.25) * crowd
    length, width = canvas.between(1.8, 3.2, len(points)), canvas.between(1.5, 2.2, len(points))
    cells = canvas.ellipses(points, length, width, canvas.angles(points), keep=keep)
    pool = np.clip(0.13 + 0.04 * canvas.noise(45) + 0.012 * canvas.noise(6), 0.02, None)
    return pool + canvas.between(0.12, 0.26) * strand + cells, 0.25 * pool + 0.08 * strand + 0.2 * cells


def _fibres(canvas: Canvas, waves: tuple[tuple[float, float], ...]) -> Maps:
    """Coordinates (along, across) of fibres in one direction, bent by waves of (wavelength, amplitude)."""
    angle = canvas.between(0, np.pi)
    along = canvas.x * np.cos(angle) + canvas.y * np.sin(angle)
    across = canvas.y * np.cos(angle) - canvas.x * np.sin(angle)
    for wavelength, amplitude in waves:
        across = across + amplitude * canvas.noise(wavelength)
    return along, across


def _spindles(canvas: Canvas, across: np.ndarray, points: np.ndarray, length: tuple, width: tuple) -> np.ndarray:
    """Elongated nuclei lying along the fibres."""
    count = len(points)
    angle = canvas.slope(across, points) + np.pi / 2 + canvas.random.normal(0, 0.1, count)
    strength = canvas.between(0.6, 1.15, count)
    return canvas.ellipses(points, canvas.between(*length, count), canvas.between(*width, count), angle, strength)


def muscle(canvas: Canvas) -> Maps:
    """Tight parallel wavy fibres with cigar-shaped nuclei along them."""
    along, across = _fibres(canvas, ((60, canvas.between(3, 9)), (24, canvas.between(0.3, 1.2))))
    fibre = canvas.streaks(along, across, 45, canvas.between(2.5, 4)) + 0.7 * canvas.streaks(along, across, 18, 1.4)
    cleft = step(canvas.streaks(along, across, 50, canvas.between(3, 5)) - canvas.between(1.3, 2.6), 1.0)
    points = canvas.scatter(canvas.between(13, 18), jitter=0.6)
    points = points[canvas.random.random(len(points)) < canvas.between(0.6, 0.95)]
    nuclei = _spindles(canvas, across, points, (4.5, 8), (1.2, 1.9))
    eosin = np.clip(0.58 + 0.11 * fibre, 0.1, None) * (1 - 0.85 * cleft)
    return 0.22 * eosin + nuclei, eosin * (1 - 0.3 * nuclei)


def stroma(canvas: Canvas) -> Maps:
    """Loose wavy collagen in changing directions, with thin spindle nuclei and some lymphocytes."""
    along, across = _fibres(canvas, ((50, canvas.between(12, 22)), (20, canvas.between(2, 4)), (9, 0.7)))
    along = along + 15 * canvas.noise(50)
    fibre = canvas.streaks(along, across, 22, canvas.between(3, 6)) + 0.5 * canvas.streaks(along, across, 14, 2.5)
    fibril = canvas.streaks(along, across, 9, 1.4) + 0.5 * canvas.noise(2.5)
    bundle = step(fibre + 0.45 * fibril + canvas.between(0.2, 1.0), 2.2)
    points = canvas.scatter(canvas.between(15, 22), jitter=0.8)
    points = points[canvas.random.random(len(points)) < 0.8]
    nuclei = _spindles(canvas, across, points, (3.5, 7), (0.8, 1.5))
    visitors = canvas.lymphocytes(11, canvas.noise(30) > 0.8, canvas.between(0, 0.6))
    nuclei = np.maximum(nuclei, visitors)
    eosin = bundle * np.clip(0.45 + 0.08 * canvas.noise(20) + 0.07 * fibril, 0.05, None) + 0.04
    return 0.16 * eosin + nuclei, eosin


def _lamina_propria(canvas: Canvas, allowed: np.ndarray, crowding: float) -> Maps:
    """Loose eosinophilic ground between glands with lymphocytes and blood cells."""
    ground = np.clip(0.3 + 0.2 * canvas.noise(7) + 0.12 * canvas.noise(3), 0.02, None)
    nuclei = canvas.lymphocytes(canvas.between(8, 10.5), allowed, crowding)
    points = canvas.scatter(8)
    blood = canvas.ellipses(points, 3, 2.6, 0, 0.9, keep=canvas.at(allowed & (canvas.noise(25) > 1.2), points))
    return 0.2 * ground + nuclei, np.maximum(ground, blood)


def normal_mucosa(canvas: Canvas) -> Maps:
    """Round crypts full of goblet vacuoles, each with a ring of basal nuclei, in lamina propria."""
    direction, elongation = canvas.between(0, np.pi), 1 + canvas.random.gamma(1, 0.35)
    spacing = canvas.between(56, 70)
    cosine, sine = np.cos(direction), np.sin(direction)
    # A lattice stretched along one direction, as crypts lie side by side.
    lattice = canvas.scatter(spacing, jitter=0.12, margin=70) - FIELD_OF_VIEW / 2
    lattice = lattice * [elongation, 1.0] @ np.array([[cosine, sine], [-sine, cosine]]) + FIELD_OF_VIEW / 2
    inside = np.full((canvas.pixels, canvas.pixels), -20.0, np.float32)
    ring, vacuoles = [np.zeros((0, 5))], [np.zeros((0, 4))]
    lumen = np.zeros_like(inside)
    waviness = 1 + 0.07 * canvas.noise(25)
    for centre in lattice[np.abs(lattice - FIELD_OF_VIEW / 2).max(axis=1) < FIELD_OF_VIEW / 2 + 45]:
        width = spacing * canvas.between(0.38, 0.45)
        length = width * elongation * canvas.between(0.95, 1.1)
        right, down = canvas.x - centre[0], canvas.y - centre[1]
        radius = np.hypot((right * cosine + down * sine) / length, (down * cosine - right * sine) / width) * waviness
        inside = np.maximum(inside, (1 - radius) * width)
        lumen = np.maximum(lumen, step(canvas.between(0.06, 0.2) - radius, 0.06))

        def around(count: int, inset: float) -> tuple[np.ndarray, np.ndarray]:
            turn = (np.arange(count) + canvas.between(-0.25, 0.25, count)) * 2 * np.pi / count
            local = np.stack([(length - inset) * np.cos(turn), (width - inset) * np.sin(turn)], axis=1)
            outward = np.arctan2(np.sin(turn) / width, np.cos(turn) / length) + direction
            return local @ np.array([[cosine, sine], [-sine, cosine]]) + centre, outward

        girth = np.pi * (length + width)
        points, outward = around(int(girth / 5.2), 3.8)
        points = points + canvas.random.normal(0, 0.6, points.shape)
        ring.append(np.column_stack([points, outward, canvas.between(2.4, 3.4, (len(points), 2))]))
        for inset, wide in ((0.46 * width, 3.9), (0.72 * width, 2.6)):
            points, outward = around(max(3, int(girth * (1 - inset / width) / (2.15 * wide))), inset)
            points = points + canvas.random.normal(0, 0.8, points.shape)
            vacuoles.append(np.column_stack([points, outward, wide * canvas.between(0.6, 1.2, len(points))]))
    ring, vacuoles = np.concatenate(ring), np.concatenate(vacuoles)
    crypt = step(inside, 1.2)
    ground, pink = _lamina_propria(canvas, inside < -2.5, canvas.between(0.4, 0.85))
    nuclei = canvas.ellipses(ring[:, :2], ring[:, 3], ring[:, 4] * 0.8, ring[:, 2], canvas.between(0.8, 1.2, len(ring)))
    mucin = canvas.ellipses(vacuoles[:, :2], vacuoles[:, 3] * 1.35, vacuoles[:, 3], vacuoles[:, 2], edge=1.4)
    pale = np.maximum(mucin * canvas.between(0.6, 0.85), lumen)
    cell = np.clip(1 + 0.12 * canvas.noise(5), 0, None) * (1 - pale)
    cleft = step(-np.abs(inside + 1.6) + canvas.between(-0.5, 1.5), 1.0)  # shrinkage around the crypts
    haematoxylin = np.maximum(crypt * (0.36 * cell + 0.05), nuclei) + (1 - crypt) * (1 - cleft) * ground
    return haematoxylin, crypt * (0.36 * cell + 0.03) + (1 - crypt) * (1 - cleft) * pink


def tumour(canvas: Canvas) -> Maps:
    """Crowded irregular glands: stratified large uneven nuclei across the wall, ragged or multiple lumens."""
    depth = canvas.depth_in_cells(
        canvas.scatter(canvas.between(52, 85), jitter=0.4, margin=45), canvas.between(5, 9), canvas.between(3, 6)
    )
    depth = depth - canvas.between(1.5, 6) - 1.5 * canvas.noise(20)  # a thin desmoplastic septum between glands
    thickness = canvas.between(17, 27) + 3 * canvas.noise(30)
    cribriform = canvas.scatter(canvas.between(22, 34))
    keep = (canvas.at(depth, cribriform) > 9) & (canvas.random.random(len(cribriform)) < canvas.between(-0.4, 0.8))
    radius = canvas.between(2.5, 6.5, len(cribriform))
    holes = canvas.ellipses(cribriform, radius * 1.4, radius, canvas.angles(cribriform), edge=2, keep=keep)
    lumen = np.maximum(step(depth - thickness, 1.5), holes)
    gland = step(depth, 1.2) * (1 - lumen)

    spacing = canvas.between(5.3, 6.6)
    points = canvas.scatter(spacing)
    layer, wall = canvas.at(depth, points), canvas.at(thickness, points)
    keep = (layer > 2.5) & (layer < wall - canvas.between(3, 7)) & (canvas.at(holes, points) < 0.1)
    count = len(points)
    scale = np.clip(canvas.random.lognormal(0, canvas.between(0.15, 0.3), count), 0.6, 1.7) * spacing / 5.8
    nuclei = canvas.ellipses(
        points,
        canvas.between(3.6, 5.6, count) * scale,
        canvas.between(2.0, 2.9, count) * scale,
        canvas.slope(depth, points) + canvas.random.normal(0, 0.25, count),
        canvas.between(0.55, 1.25, count),
        keep=keep,
    )
    chromatin = np.clip(1 + 0.22 * canvas.noise(2.4), 0.3, None)
    ground, pink = _lamina_propria(canvas, depth < -1.5, canvas.between(0.3, 0.7))
    cytoplasm = np.clip(0.36 + 0.06 * canvas.noise(8), 0.1, None)
    outside = 1 - step(depth, 1.2)
    haematoxylin = gland * np.maximum(0.9 * cytoplasm, nuclei * chromatin) + outside * ground
    return haematoxylin, gland * cytoplasm * 1.05 + outside * pink


ARCHITECTURES: dict[str, Callable[[Canvas], Maps]] = {
    "ADI": adipose,
    "BACK": background,
    "DEB": debris,
    "LYM": lymphocytes,
    "MUC": mucus,
    "MUS": muscle,
    "NORM": normal_mucosa,
    "STR": stroma,
    "TUM": tumour,
}
