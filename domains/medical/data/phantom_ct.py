"""Abdomens as CT shows them: organs, lesions, partial volume, texture and noise, all simulated.

Structures are shapes in millimetres (RAS+: right, anterior and superior are positive), bent by a
smooth warp that differs between patients, and sampled on whatever grid a scan has. A structure is
given by its distance to the surface in mm, negative inside, to first order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

LABELS: Mapping[str, int] = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "lesion": 4}
AIR, LESION = -1000.0, 62.0
HOUNSFIELD: Mapping[str, float] = {
    "skin fat": -100.0,
    "wall": 55.0,
    "inner fat": -92.0,
    "lung": -830.0,
    "bowel": 30.0,
    "stomach": 22.0,
    "stomach gas": -900.0,
    "bone": 420.0,
    "marrow": 190.0,
    "canal": 35.0,
    "aorta": 175.0,
    "cava": 140.0,
    "spleen": 128.0,
    "kidney": 185.0,
    "pelvis": 95.0,
    "liver": 112.0,
}
"""Portal venous phase, in painting order."""
_ORGANS = ("liver", "spleen", "kidney")
_TEXTURE, _NOISE = 14.0, 11.0


@dataclass(frozen=True)
class Phantom:
    """A simulated scan and its truth.

    Args:
        image: `[C, *shape]` float32: Hounsfield units, in PET/CT also SUV.
        label: class indices `[*shape]` uint8.
        affine: `[4, 4]` from voxels to mm, RAS+.
    """

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def ct_phantom(rng: np.random.Generator) -> Phantom:
    """Simulate one patient: liver, spleen, kidneys, and none to four lesions in them."""
    affine, shape, size = draw_grid(rng)
    points = world(affine, shape)
    parts = anatomy(points, size, rng)
    values = {name: value + rng.normal(0, 6) for name, value in HOUNSFIELD.items()}
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = painted(parts, values, AIR, float(spacing.mean()))
    label = np.zeros(shape, dtype=np.uint8)
    for organ in _ORGANS:
        label[parts[organ] < 0] = LABELS[organ]
    for number in range(int(rng.choice(5, p=[0.15, 0.3, 0.3, 0.15, 0.1]))):
        host = parts["kidney" if number == 3 else "liver"]
        radius = float(rng.uniform(7, 17) if number < 3 else rng.uniform(7, 9))
        blob = lump(points, place_in(points, host, 0.6 * radius, rng), radius, rng)
        blob = np.maximum(blob, host)
        image = blended(image, blob, LESION + rng.normal(0, 10), float(spacing.mean()))
        label[blob < 0] = LABELS["lesion"]
    return Phantom(scanned(image, spacing, rng)[None], label, affine)


def draw_grid(
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[int, ...], tuple[float, float]]:
    """Draw affine, shape and half-widths (right-left, anterior-posterior, mm) of a scan."""
    size = float(rng.uniform(112, 132)), float(rng.uniform(82, 96))
    spacing = np.append(np.repeat(rng.choice([5.0, 5.2, 5.4]), 2), rng.choice([3.6, 4.0, 4.6]))
    extent = np.array([2 * size[0] + 16, 2 * size[1] + 16, rng.uniform(150, 190)])
    shape = np.clip(np.ceil(extent / spacing), 40, 56).astype(int)
    tilt = float(rng.choice([0.0, 0.0, 0.0, np.radians(rng.uniform(-9, 9))]))
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    middle = np.array([rng.normal(0, 3), rng.normal(0, 3), rng.uniform(0, 14)])
    affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
    return affine, tuple(int(n) for n in shape), size


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return where each voxel is, in mm, `[3, *shape]`."""
    index = np.indices(shape).reshape(3, -1)
    mm = affine[:3, :3] @ index + affine[:3, 3:]
    return mm.reshape(3, *shape).astype(np.float32)


def anatomy(
    points: np.ndarray, size: tuple[float, float], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the distance of each voxel to each structure, in the order of `HOUNSFIELD`."""
    a, b = size
    p = points + _warp(points, 6.0, (80, 150), rng)
    k = float(a / 122)

    def varied(*mm: float, by: float = 4.0) -> np.ndarray:
        return k * np.array(mm) + rng.normal(0, by, 3)

    def around(centre: np.ndarray, *radii: float) -> np.ndarray:
        return ellipsoid(p, centre, k * np.array(radii) * rng.uniform(0.88, 1.12, 3))

    skin = ((np.abs(points[0]) / a) ** 2.3 + (np.abs(points[1]) / b) ** 2.3) ** (1 / 2.3) - 1
    body = skin * (a + b) / 2
    wall = body + rng.uniform(8, 20)
    inner = wall + rng.uniform(9, 13)
    spine = np.array([0.0, -0.52 * b])
    off = np.hypot(p[0] - spine[0], p[1] - spine[1])
    bone = off - k * (17 + 2.2 * np.cos(2 * np.pi * p[2] / 34))
    canal = np.hypot(p[0] - spine[0], p[1] - spine[1] + 25 * k) - 8
    arch = np.maximum(np.abs(p[0]) - 24 * k, np.abs(p[1] - spine[1] + 26 * k) - 13)
    dome = rng.uniform(66, 82) - 0.002 * (p[0] ** 2 + p[1] ** 2)
    stomach = around(varied(-48, 38, 34), 36, 28, 40)
    kidneys = [around(varied(side * 56, -36, -26 - 6 * side), 25, 22, 46) for side in (-1, 1)]
    hilum = [ellipsoid(p, k * np.array([s * 44.0, -32, -28]), np.full(3, 11.0)) for s in (-1, 1)]
    liver = np.minimum(around(varied(52, 8, 34), 56, 60, 54), around(varied(2, 38, 44), 50, 28, 30))
    loops = gaussian_filter(rng.normal(size=points.shape[1:]), 2.2)
    loops = 12 * (0.5 - loops / loops.std()) + np.maximum(p[2] - 10, 0) / 3
    kidney = np.minimum(*kidneys)
    return {
        "skin fat": body,
        "wall": wall,
        "inner fat": inner,
        "lung": np.maximum(inner, dome - p[2]),
        "bowel": np.maximum(np.maximum(loops, inner + 4), -15 - p[1]),
        "stomach": np.maximum(stomach, inner),
        "stomach gas": np.maximum(stomach + 3, k * 46 - p[1]),
        "bone": np.minimum(bone, arch),
        "marrow": bone + 4,
        "canal": canal,
        "aorta": np.hypot(p[0] + 9 * k, p[1] - spine[1] - 30 * k) - 9.5,
        "cava": np.hypot(p[0] - 17 * k, p[1] - spine[1] - 30 * k) - 10,
        "spleen": np.maximum(around(varied(-76, -22, 36), 24, 34, 40), inner),
        "kidney": kidney,
        "pelvis": np.maximum(np.minimum(*hilum), kidney + 4),
        "liver": np.maximum(np.maximum(liver, inner), p[2] - dome + 3),
    }


def ellipsoid(points: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the distance to an ellipsoid, exact for balls, `[*shape]`."""
    centre, radii = (x.astype(np.float32)[:, None, None, None] for x in (centre, radii))
    scaled = (points - centre) / radii
    return (np.sqrt((scaled * scaled).sum(axis=0)) - 1) * float(radii.min())


def lump(
    points: np.ndarray, centre: np.ndarray, radius: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the distance to an uneven ball."""
    bent = points + _warp(points, 0.16 * radius, (1.5 * radius, 3 * radius), rng)
    return ellipsoid(bent, centre, radius * rng.uniform(0.8, 1.2, 3))


def painted(
    parts: Mapping[str, np.ndarray], values: Mapping[str, float], outside: float, voxel: float
) -> np.ndarray:
    """Paint structures over each other, later ones on top, float64 `[*shape]`."""
    image = np.full(next(iter(parts.values())).shape, outside)
    for name, distance in parts.items():
        image = blended(image, distance, values[name], voxel)
    return image


def blended(image: np.ndarray, distance: np.ndarray, value: float, voxel: float) -> np.ndarray:
    """Mix in a structure by the share of each voxel that it fills, to first order."""
    share = np.clip(0.5 - distance / voxel, 0, 1)
    return image + share * (value - image)


def scanned(image: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add texture to tissue, the blur of the reconstruction and its noise; float32."""
    texture = gaussian_filter(rng.normal(size=image.shape), 4.0 / spacing)
    tissue = np.clip((image + 200) / 150, 0, 1)
    image = image + tissue * texture * (_TEXTURE / texture.std())
    noise = gaussian_filter(rng.normal(size=image.shape), 0.5)
    blurred = gaussian_filter(image, 1.6 / spacing) + noise * (_NOISE / noise.std())
    return np.clip(blurred, -1024, 3071).astype(np.float32)


def place_in(
    points: np.ndarray, distance: np.ndarray, depth: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw a place at least `depth` mm inside a structure, or the deepest there is."""
    deep = np.flatnonzero(distance < -depth)
    at = int(rng.choice(deep)) if len(deep) else int(distance.argmin())
    return points.reshape(3, -1)[:, at]


def _warp(
    points: np.ndarray, most: float, lengths: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Return smooth displacements of up to about `most` mm, three waves along each axis."""
    moved = np.zeros_like(points)
    for axis in range(3):
        for _ in range(3):
            direction = rng.normal(size=3)
            direction *= 2 * np.pi / rng.uniform(*lengths) / np.linalg.norm(direction)
            phase = np.tensordot(direction.astype(np.float32), points, axes=1)
            moved[axis] += most / 2 * np.sin(phase + np.float32(rng.uniform(0, 2 * np.pi)))
    return moved
