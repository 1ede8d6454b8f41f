"""PET/CT of simulated abdomens whose tumours need both: hot in PET, soft tissue in CT.

Tumours are soft tissue of high uptake, as faint in a CT without contrast medium as their
surroundings. What else is hot (collecting systems of the kidneys, brown fat, stretches of bowel) is
fat, fluid or gas in CT, and what else is a soft-tissue nodule in CT (benign nodes) is cold in PET.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import gaussian_filter

from domains.medical.data.phantom_ct import (
    AIR,
    Phantom,
    anatomy,
    blended,
    draw_grid,
    lump,
    painted,
    place_in,
    scanned,
    world,
)

LABELS: Mapping[str, int] = {"background": 0, "tumour": 1}
CHANNELS = ("CT", "PET")
HOUNSFIELD: Mapping[str, float] = {
    "skin fat": -100.0,
    "wall": 50.0,
    "inner fat": -95.0,
    "lung": -830.0,
    "bowel": 25.0,
    "stomach": 15.0,
    "stomach gas": -900.0,
    "bone": 400.0,
    "marrow": 170.0,
    "canal": 25.0,
    "aorta": 42.0,
    "cava": 40.0,
    "spleen": 50.0,
    "kidney": 32.0,
    "pelvis": 5.0,
    "liver": 57.0,
}
UPTAKE: Mapping[str, float] = {
    "skin fat": 0.3,
    "wall": 0.8,
    "inner fat": 0.4,
    "lung": 0.5,
    "bowel": 1.3,
    "stomach": 1.6,
    "stomach gas": 0.4,
    "bone": 1.2,
    "marrow": 1.8,
    "canal": 1.0,
    "aorta": 1.7,
    "cava": 1.7,
    "spleen": 1.9,
    "kidney": 2.6,
    "pelvis": 14.0,
    "liver": 2.4,
}
"""Standardised uptake values."""
_NODE, _BLUR, _NOISE = 42.0, 3.0, 0.09


def petct_phantom(rng: np.random.Generator) -> Phantom:
    """Simulate one patient: channels CT (HU) and PET (SUV), none to five tumours."""
    affine, shape, size = draw_grid(rng)
    points = world(affine, shape)
    parts = anatomy(points, size, rng)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    voxel = float(spacing.mean())
    ct = painted(parts, {n: v + rng.normal(0, 4) for n, v in HOUNSFIELD.items()}, AIR, voxel)
    pet = painted(parts, {n: v * rng.uniform(0.8, 1.25) for n, v in UPTAKE.items()}, 0.0, voxel)
    organs = [parts[name] for name in parts if name not in ("skin fat", "wall", "inner fat")]
    free = np.maximum(parts["inner fat"], -np.minimum.reduce(organs))
    label = np.zeros(shape, dtype=np.uint8)

    def node(where: np.ndarray, low: float, high: float) -> np.ndarray:
        radius = float(rng.uniform(low, high))
        return lump(points, place_in(points, where, 0.5 * radius, rng), radius, rng)

    for _ in range(int(rng.integers(1, 4))):
        ct = blended(ct, node(free, 7, 12), _NODE + rng.normal(0, 6), voxel)
    for _ in range(int(rng.integers(6, 10))):
        pet = blended(pet, np.maximum(node(free, 7, 14), free), rng.uniform(4, 11), voxel)
    bowel = np.maximum(parts["bowel"], -parts["stomach"])
    pet = blended(pet, np.maximum(node(bowel, 9, 16), bowel), rng.uniform(3, 6), voxel)
    for number in range(int(rng.choice(6, p=[0.12, 0.2, 0.28, 0.2, 0.12, 0.08]))):
        tumour = node(parts["liver"] if number % 3 == 2 else free, 8, 15)
        tumour = np.maximum(tumour, parts["wall"])
        ct = blended(ct, tumour, _NODE + rng.normal(0, 6), voxel)
        pet = blended(pet, tumour, rng.uniform(4.5, 12), voxel)
        label[tumour < 0] = 1
    pet = gaussian_filter(pet, _BLUR / spacing)
    noise = gaussian_filter(rng.normal(size=shape), 0.7)
    pet = pet + noise / noise.std() * _NOISE * np.sqrt(np.maximum(pet, 0.05))
    image = np.stack([scanned(ct, spacing, rng), np.clip(pet, 0, 60).astype(np.float32)])
    return Phantom(image, label, affine)
