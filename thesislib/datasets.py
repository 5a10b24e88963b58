"""What a dataset is: its form, checked, and a name of its exact content. Numpy only: reading runs needs no torch."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from thesislib.config import Run
from thesislib.system import datafiles
from thesislib.system.datafiles import Arrays
from thesislib.system.errors import UserError


class Facts(NamedTuple):
    """What there is to know of a dataset: [C, H, W] of an image, classes, images, mean and std of a channel in 0..1."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


#: MNIST is normalised as in the thesis' SLS code base.
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
KNOWN = {
    "mnist5k": Facts((1, 28, 28), 10, 4_000, 1_000, (0.5,), (0.5,)),
    "mnist": Facts((1, 28, 28), 10, 60_000, 10_000, (0.5,), (0.5,)),
    "cifar10": Facts((3, 32, 32), 10, 50_000, 10_000, *_CIFAR),
    "cifar100": Facts((3, 32, 32), 100, 50_000, 10_000, *_CIFAR),
}

#: Known copies that are not quite the original, by fingerprint. Figures made from them say so. Two versions of libjpeg
#: decode the same files to pixels that differ here and there by one.
VARIANTS = {"b35b5d896a0f55b4": "CIFAR-10 (JPEG)", "330a7700c1cec644": "CIFAR-10 (JPEG)"}


def fingerprint(name: str) -> str:
    """A short name of the dataset's exact content, part of every run's id.

    It does not depend on where the arrays came from. Without the dataset, what is written beside it is enough: who
    only reads runs, copied from elsewhere, copies that small file with them. Raises UserError if neither is there, or
    the dataset is malformed.
    """
    return datafiles.MNIST5K[:16] if name == "mnist5k" else datafiles.fingerprint(name, load)


def variant(name: str) -> str:
    """What a figure has to say about its data: empty for the original, or for a copy nobody knows."""
    return VARIANTS.get(fingerprint(name), "")


def load(name: str) -> Arrays:
    """The whole dataset. Raises UserError if it is missing or not of the expected form."""
    if name == "mnist5k":
        return datafiles.mnist5k()
    path, arrays = datafiles.read(name)
    known = KNOWN.get(name)
    shape = arrays.x_train.shape[1:]
    if known:  # [H, W] if there is one channel
        shape = (*known.shape[1:], known.shape[0])[: 2 if known.shape[0] == 1 else 3]
    for x in arrays[::2]:
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[1:] != shape or x.size == 0:
            wanted = ["N", *shape] if known else "[N, H, W] or [N, H, W, C]"
            raise UserError(f"{path}: images must be uint8 {wanted}, not {x.dtype} {list(x.shape)}")
    for x, y in (arrays[:2], arrays[2:]):
        if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
            raise UserError(f"{path}: labels must be {len(x)} integers, not {y.dtype} {list(y.shape)}")
    classes = known.classes if known else int(arrays.y_train.max()) + 1
    if any(y.min() < 0 or y.max() >= classes for y in (arrays.y_train, arrays.y_test)):
        raise UserError(f"{path}: labels must be from 0 to {classes - 1}")
    dtype = np.uint8 if classes <= 256 else np.int64
    return arrays._replace(y_train=arrays.y_train.astype(dtype), y_test=arrays.y_test.astype(dtype))


def facts(name: str) -> Facts:
    """What there is to know of a dataset; of one's own it is read off its training images. Raises UserError."""
    return KNOWN[name] if name in KNOWN else _read_off(name, *datafiles.stamp(datafiles.find(name)))


@functools.lru_cache(maxsize=4)
def _read_off(name: str, *_stamp: int) -> Facts:
    arrays = load(name)
    images = arrays.x_train[..., None] if arrays.x_train.ndim == 3 else arrays.x_train
    mean, std = [], []
    for channel in range(images.shape[3]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        values = np.arange(256) / 255
        mean.append(float(share @ values))
        # A channel that is the same everywhere says nothing, and must not become a division by 0.
        std.append(float(np.sqrt(share @ (values - mean[-1]) ** 2)) or 1.0)
    counts = (int(arrays.y_train.max()) + 1, len(arrays.x_train), len(arrays.x_test))
    return Facts((images.shape[3], *images.shape[1:3]), *counts, tuple(mean), tuple(std))


def test_images(run: Run) -> int:
    """Number of images that the run is evaluated on."""
    known = facts(run.data)
    whole = max(0, known.train - run.train_size) if run.validation else known.test
    return min(whole, run.test_size or whole)
