"""Pictures of simulated skin lesions, with the hairs, bubbles and dark corners real ones have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

TARGETS = ("keratosis", "melanoma", "nevus")
_TONES = np.array([[232, 190, 172], [224, 172, 150], [205, 150, 122], [176, 122, 96]], dtype=float)
_BROWN = np.array([[150, 98, 70], [120, 74, 52], [96, 58, 44], [168, 112, 78]], dtype=float)
_MELANOMA = np.array([[58, 40, 40], [96, 60, 48], [120, 120, 138], [150, 84, 76]], dtype=float)
_KERATOSIS = np.array([[152, 116, 92], [128, 98, 80], [172, 132, 102]], dtype=float)
_FINE = 2
"""Hairs and edges are drawn this much finer, and averaged."""


@dataclass(frozen=True)
class Skin:
    """What pictures of one patient share."""

    tone: np.ndarray
    hairs: int
    hair_color: np.ndarray


def draw_skin(rng: np.random.Generator) -> Skin:
    """Draw a patient: light to medium brown skin, none to many hairs."""
    first, second = rng.choice(len(_TONES), 2)
    share = rng.random()
    tone = share * _TONES[first] + (1 - share) * _TONES[second]
    hairs = int(rng.choice([0, 3, 8, 18], p=[0.35, 0.25, 0.25, 0.15]))
    return Skin(tone + rng.normal(0, 6, 3), hairs, np.array([52.0, 38, 32]) * rng.uniform(0.6, 1.9))


def draw_lesion(
    target: str, skin: Skin, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one picture.

    Args:
        target: one of `TARGETS`. Nevi are round, even and of one brown; melanomas uneven in outline
            and of several colours, some blue-grey; keratoses sharp-edged with white dots.
        skin: of the patient.
        shape: rows and columns.
        rng: of everything drawn.

    Returns:
        Picture uint8 `[rows, columns, 3]` and mask bool `[rows, columns]`.
    """
    fine = (shape[0] * _FINE, shape[1] * _FINE)
    rows, columns = np.indices(fine).astype(np.float32)
    unit = float(min(fine))
    outline = _outline(target, rows, columns, unit, rng)
    soft = {"nevus": 0.045, "melanoma": 0.03, "keratosis": 0.012}[target] * unit
    cover = 1 / (1 + np.exp(np.clip(outline / soft * 2.2, -30, 30)))
    pores = _cloud(fine, unit / 90, rng) * 3 + _cloud(fine, unit / 8, rng) * 5
    picture = skin.tone + pores[..., None]
    lesion = _colours(target, fine, unit, rng) * (0.35 + 0.65 * skin.tone / _TONES[0])
    lesion += _structure(target, outline, fine, unit, rng)[..., None]
    picture += (cover * rng.uniform(0.72, 0.95))[..., None] * (lesion - picture)
    picture = _hairy(picture, skin, unit, rng)
    picture = _lit(picture, rows, columns, rng)
    small = picture.reshape(shape[0], _FINE, shape[1], _FINE, 3).mean(axis=(1, 3))
    small += rng.normal(0, 2.5, small.shape)
    inside = (outline < 0).reshape(shape[0], _FINE, shape[1], _FINE).mean(axis=(1, 3)) >= 0.5
    return np.clip(np.rint(small), 0, 255).astype(np.uint8), inside


def _outline(
    target: str, rows: np.ndarray, columns: np.ndarray, unit: float, rng: np.random.Generator
) -> np.ndarray:
    """Distance to the edge along rays from the middle, in fine pixels, negative inside."""
    middle = np.array([rows.max(), columns.max()]) * rng.uniform(0.4, 0.6, 2)
    y, x = rows - middle[0], columns - middle[1]
    turn = rng.uniform(0, np.pi)
    stretch = rng.uniform(1.0, 1.25 if target == "nevus" else 1.6)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    angle = np.arctan2(v * stretch, u)
    radius = unit * rng.uniform(0.13, 0.32)
    uneven = {"nevus": 0.04, "melanoma": 0.13, "keratosis": 0.08}[target]
    angles = np.linspace(-np.pi, np.pi, 721)
    waves = np.arange(2, 9)[:, None]
    heights = uneven * rng.normal(size=waves.shape) / np.sqrt(waves / 2)
    edge = 1 + (heights * np.cos(waves * angles + rng.uniform(0, 7, waves.shape))).sum(axis=0)
    return np.hypot(u, v * stretch) - radius * np.interp(angle, angles, np.maximum(edge, 0.35))


def _colours(
    target: str, shape: tuple[int, int], unit: float, rng: np.random.Generator
) -> np.ndarray:
    """Return patches of the lesion's colours, `[*shape, 3]`."""
    if target == "nevus":
        return _BROWN[rng.integers(len(_BROWN))] + _cloud(shape, unit / 12, rng)[..., None] * 5
    palette = _MELANOMA if target == "melanoma" else _KERATOSIS
    scale = unit / (9 if target == "melanoma" else 20)
    weights = np.exp(1.6 * np.stack([_cloud(shape, scale, rng) for _ in palette]))
    return np.tensordot(weights / weights.sum(axis=0), palette, axes=(0, 0))


def _structure(
    target: str, outline: np.ndarray, shape: tuple[int, int], unit: float, rng: np.random.Generator
) -> np.ndarray:
    """Return what dermoscopy shows inside: a network, streaks towards the edge, or white dots."""
    if target == "keratosis":
        dots = _cloud(shape, unit / 55, rng)
        return np.where(dots > 2.1, 60.0, 0.0) - 7 * np.maximum(_cloud(shape, unit / 40, rng), 0)
    net = np.abs(_cloud(shape, unit / 45, rng))
    lines = -26 * np.exp(-((net / 0.28) ** 2))
    if target == "nevus":
        return lines * 0.7 + 10 * np.clip(outline / unit + 0.1, -0.2, 0.1) / 0.1
    blobs = np.where(_cloud(shape, unit / 30, rng) > 1.5, -30.0, 0.0)
    return lines * (_cloud(shape, unit / 6, rng) > 0) + blobs


def _hairy(picture: np.ndarray, skin: Skin, unit: float, rng: np.random.Generator) -> np.ndarray:
    """Draw bent hairs, and sometimes bubbles of the gel between skin and lens."""
    height, width = picture.shape[:2]
    hairs = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(hairs)
    lean = rng.uniform(0, np.pi)
    for _ in range(int(rng.poisson(skin.hairs))):
        start = rng.uniform([0, 0], [width, height])
        angle = lean + rng.normal(0, 0.5)
        bend = rng.normal(0, 0.9) / unit
        steps = np.linspace(0, unit * rng.uniform(0.3, 1.1), 24)
        directions = angle + bend * steps
        path = start + np.cumsum(
            np.stack([np.cos(directions), np.sin(directions)], axis=1) * steps[1], axis=0
        )
        pen.line([tuple(at) for at in path], fill=int(rng.uniform(150, 235)), width=_FINE)
    cover = gaussian_filter(np.asarray(hairs, dtype=float) / 255, 0.6)[..., None]
    picture = picture + cover * (skin.hair_color - picture)
    if rng.random() < 0.25:
        bubbles = Image.new("L", (width, height), 0)
        pen = ImageDraw.Draw(bubbles)
        for _ in range(int(rng.integers(2, 7))):
            x, y = rng.uniform([0, 0], [width, height])
            r = unit * rng.uniform(0.01, 0.035)
            pen.ellipse([x - r, y - r, x + r, y + r], outline=150, width=_FINE)
        shine = gaussian_filter(np.asarray(bubbles, dtype=float) / 255, 0.8)[..., None]
        picture = picture + shine * (255 - picture) * 0.7
    return picture


def _lit(
    picture: np.ndarray, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Light the picture unevenly; darken its corners, as a round lens does in some."""
    y, x = rows / rows.max() - 0.5, columns / columns.max() - 0.5
    slope = rng.normal(0, 0.07, 2)
    light = 1 + slope[0] * y + slope[1] * x - rng.uniform(0.0, 0.5) * (x**2 + y**2)
    if rng.random() < 0.3:
        light = light / (
            1 + np.exp(np.clip((np.hypot(x, y) - rng.uniform(0.52, 0.62)) * 90, -9, 9))
        )
    return picture * light[..., None] * rng.uniform(0.9, 1.06, 3)


def _cloud(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of mean 0 and deviation 1; wide ones are drawn coarse and enlarged."""
    coarse = max(1, int(sigma / 2))
    small = tuple(-(-n // coarse) + 1 for n in shape)
    noise = rng.standard_normal(small, dtype=np.float32)
    noise = gaussian_filter(noise, sigma / coarse, mode="wrap", truncate=3)
    if coarse > 1:
        enlarged = Image.fromarray(noise).resize(
            (small[1] * coarse, small[0] * coarse), Image.Resampling.BICUBIC
        )
        noise = np.asarray(enlarged)
    noise = noise[: shape[0], : shape[1]]
    return (noise - noise.mean()) / noise.std()
