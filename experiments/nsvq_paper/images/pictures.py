"""Pictures of the image experiment, cut to patches for training and for testing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.extra import without_package
from experiments.nsvq_paper.images.settings import PATCH

try:
    import skimage
    import sklearn
    from PIL import Image, UnidentifiedImageError
except ImportError as error:
    without_package(error)

BLOCK = 128  # pixels; side of the regions that are held out
SPLIT_SEED = 2022  # one split for all runs
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm", ".webp")
# Colour photographs among the files inside the two packages.
BUNDLED = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/ihc.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


@dataclass(frozen=True)
class Patches:
    """The pictures, cut.

    Attributes
    ----------
    train : uint8 array, shape [N, 32, 32, 3]
    test : uint8 array, shape [M, 32, 32, 3]
    examples : uint8 array, shape [E, S, S, 3]   held-out parts to look at
    about : dict                                 what was read and how it was split
    """

    train: np.ndarray
    test: np.ndarray
    examples: np.ndarray
    about: dict[str, Any]


def read_picture(path: Path) -> np.ndarray:
    """Return a picture as uint8 array [H, W, 3]; ValueError if it is none."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read '{path}' as a picture ({error})") from None


def bundled_paths() -> list[Path]:
    """Return the photographs that are inside the installed packages; none is downloaded."""
    folders = {"skimage": Path(skimage.__file__).parent, "sklearn": Path(sklearn.__file__).parent}
    paths = [folders[package] / name for package, name in BUNDLED]
    return [path for path in paths if path.is_file()]


def list_pictures(folder: Path) -> list[Path]:
    """Return the picture files below ``folder``, sorted; ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"'{folder}' is not a directory")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"no pictures ({', '.join(SUFFIXES)}) in '{folder}'")
    return paths


def halve(picture: np.ndarray) -> np.ndarray:
    """Return the picture at half its size, each pixel the mean of 2 x 2."""
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return np.round(blocks.astype(np.float32).mean((1, 3))).astype(np.uint8)


def crops(picture: np.ndarray, stride: int, allowed: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the patches of a grid that lie in the allowed pixels [H, W] as a whole."""
    height, width = picture.shape[:2]
    for y in range(0, height - PATCH + 1, stride):
        for x in range(0, width - PATCH + 1, stride):
            if allowed[y : y + PATCH, x : x + PATCH].all():
                yield picture[y : y + PATCH, x : x + PATCH]


def held_out_blocks(height: int, width: int, rng: np.random.Generator) -> list[tuple[slice, slice]]:
    """Return one in five of the 128 x 128 blocks of a picture (at least one)."""
    corners = [
        (y, x)
        for y in range(0, height - BLOCK + 1, BLOCK)
        for x in range(0, width - BLOCK + 1, BLOCK)
    ]
    count = max(1, round(len(corners) / 5))
    chosen = rng.choice(len(corners), count, replace=False)
    return [
        (slice(y, y + BLOCK), slice(x, x + BLOCK)) for y, x in (corners[i] for i in sorted(chosen))
    ]


def cut_patches(paths: Sequence[Path], max_train: int = 40000, max_test: int = 512) -> Patches:
    """Cut pictures to patches for training and, from what training never sees, for testing.

    Few large pictures (fewer than 20) are split by region: one in five of their 128 x 128 blocks is
    held out, and no training patch touches it. Many pictures are split by picture, one in five.
    Patches come from the picture and, where its sides have at least 256 pixels, from its half-size
    copy. Those for training overlap (a stride of 8 pixels), those for testing do not.

    Raises
    ------
    ValueError   a file is not a picture, or too little is left of them
    """
    rng = np.random.default_rng(SPLIT_SEED)
    by_region = len(paths) < 20
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    examples: list[np.ndarray] = []
    used = 0
    found = {"train": 0, "test": 0}
    # Keeps memory bounded when the pictures are many or huge.
    limits = [max(1, 2 * limit // len(paths)) for limit in (max_train, max_test)]
    if by_region:
        limits[1] = max_test
    held_out = np.zeros(len(paths), bool)
    held_out[rng.permutation(len(paths))[: max(1, len(paths) // 5)]] = True
    for i, path in enumerate(paths):
        picture = read_picture(path)
        height, width = picture.shape[:2]
        if min(height, width) < (BLOCK if by_region else PATCH):
            continue
        used += 1
        mask = np.zeros((height, width), bool)
        if by_region:
            blocks = held_out_blocks(height, width, rng)
            for block in blocks:
                mask[block] = True
            examples.append(picture[blocks[0]])
        else:
            mask[:] = held_out[i]
        scales = [(picture, mask)]
        if min(height, width) >= 2 * BLOCK:
            # The blocks start at even pixels: 4 pixels that become one are held out, or none is.
            small = mask[: height // 2 * 2, : width // 2 * 2]
            small = small.reshape(height // 2, 2, width // 2, 2)
            scales.append((halve(picture), small.all((1, 3))))
        new_train: list[np.ndarray] = []
        new_test: list[np.ndarray] = []
        for scaled, out in scales:
            new_test.extend(crops(scaled, PATCH, out))
            new_train.extend(crops(scaled, 8, ~out))
        found["train"] += len(new_train)
        found["test"] += len(new_test)
        for new, kept, limit in ((new_train, train, limits[0]), (new_test, test, limits[1])):
            if len(new) > limit:
                new = [new[j] for j in rng.choice(len(new), limit, replace=False)]
            kept.extend(patch.copy() for patch in new)
        if not by_region and held_out[i] and min(height, width) >= PATCH and len(examples) < 8:
            examples.append(picture[:PATCH, :PATCH])
    need = BLOCK if by_region else PATCH
    if len(train) < 100 or len(test) < 10:
        raise ValueError(
            f"too little to learn from: {len(train)} patches for training and {len(test)} for "
            f"testing (at least 100 and 10) in {used} pictures of {need} x {need} pixels or more"
        )
    cut = []
    for patches, limit in ((train, max_train), (test, max_test)):
        chosen = np.sort(rng.permutation(len(patches))[:limit])
        cut.append(np.stack([patches[j] for j in chosen]))
    about = {
        "pictures": used,
        "files": [path.name for path in paths] if len(paths) <= 20 else f"{len(paths)} files",
        "split": "by region" if by_region else "by picture",
        "train_patches": len(cut[0]),
        "test_patches": len(cut[1]),
        "patches_found": found,
        "sha256": hashlib.sha256(cut[0].tobytes() + cut[1].tobytes()).hexdigest(),
    }
    return Patches(cut[0], cut[1], np.stack(examples[:8]), about)
