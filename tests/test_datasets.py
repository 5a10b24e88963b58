import json
import warnings
from zipfile import ZipFile

import matplotlib.pyplot as plt
import numpy as np
import pytest

from thesislib import datasets
from thesislib.config import Run
from thesislib.plots import save
from thesislib.runs import copies
from thesislib.runs.results import Results
from thesislib.system import datafiles
from thesislib.system.errors import UserError
from thesislib.trainer import Trainer


def write(folder, name="mnist", **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (20, 28, 28), dtype=np.uint8), "y_train": np.arange(20, dtype=np.uint8) % 10,
        "x_test": rng.integers(0, 256, (10, 28, 28), dtype=np.uint8), "y_test": np.arange(10, dtype=np.uint8),
    }  # fmt: skip
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data" / f"{name}.npz"
    np.savez(path, **(arrays | changes))
    return path, arrays


def test_embedded_digits_are_split_by_class():
    data = datasets.load("mnist5k")
    assert data.x_train.shape == (4000, 28, 28)
    assert data.x_test.shape == (1000, 28, 28)
    assert (np.bincount(data.y_train) == 400).all()
    assert (np.bincount(data.y_test) == 100).all()
    assert set(data.y_train[:10]) == set(range(10)), "the first images of a split are stratified as well"
    train = {image.tobytes() for image in data.x_train}
    assert not any(image.tobytes() in train for image in data.x_test)


def test_npz_round_trip_and_fingerprint(folders):
    path, arrays = write(folders)
    loaded = datasets.load("mnist")
    assert all(np.array_equal(getattr(loaded, name), array) for name, array in arrays.items())
    first = datasets.fingerprint("mnist")
    assert datasets.fingerprint("mnist") == first
    arrays["y_test"][0] = 5
    write(folders, y_test=arrays["y_test"])
    assert datasets.fingerprint("mnist") != first, "other content is other data"


def test_the_type_of_labels_does_not_matter(folders):
    _, arrays = write(folders)
    first = datasets.fingerprint("mnist")
    write(folders, **{name: arrays[name].astype(np.int64) for name in ("y_train", "y_test")})
    assert datasets.fingerprint("mnist") == first
    assert datasets.load("mnist").y_train.dtype == np.uint8


@pytest.mark.parametrize("content", ["", "[]", "[1, 2]", "{}", "nonsense", '{"sha256": null}'])
def test_a_broken_note_beside_the_data_is_written_anew(folders, content):
    path, _ = write(folders)
    first, note = datasets.fingerprint("mnist"), path.with_suffix(".sha256.json")
    note.write_text(content)
    assert datasets.fingerprint("mnist") == first
    assert json.loads(note.read_text())["sha256"].startswith(first)


@pytest.mark.parametrize("name", ["mnist", "fashion", "cifar10", "cifar100"])
def test_missing_data_without_network_says_what_to_put_where(folders, name):
    with pytest.raises(UserError, match=rf"x_train.*data/{name}\.npz"):
        datasets.fingerprint(name)
    assert not (folders / "data").exists(), "a failed download leaves nothing behind"


def write_idx(path, array):
    """The format of the original MNIST files: magic number, sizes, bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(("name", "called"), [("mnist", "MNIST"), ("fashion", "FashionMNIST")])
def test_torchvisions_layout_is_the_same_dataset(folders, name, called):
    path, arrays = write(folders, name)
    known = datasets.fingerprint(name)
    path.unlink()
    raw = folders / "data" / called / "raw"
    raw.mkdir(parents=True)
    for split, file in (("train", "train"), ("test", "t10k")):
        write_idx(raw / f"{file}-images-idx3-ubyte", arrays[f"x_{split}"])
        write_idx(raw / f"{file}-labels-idx1-ubyte", arrays[f"y_{split}"])
    assert datasets.fingerprint(name) == known
    assert all(np.array_equal(getattr(datasets.load(name), key), array) for key, array in arrays.items())


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_broken_files_of_torchvisions_are_one_line(folders, content):
    raw = folders / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(content)
    with pytest.raises(UserError, match="torchvision's files of mnist in .* are broken"):
        datasets.load("mnist")


@pytest.mark.parametrize("note", ["[]", '{"sha256": null}'])
def test_a_broken_note_without_the_data_is_no_note(folders, note):
    (folders / "data").mkdir(exist_ok=True)
    (folders / "data" / "cifar10.sha256.json").write_text(note)
    with pytest.raises(UserError, match="is missing"):
        datasets.fingerprint("cifar10")


@pytest.mark.parametrize(
    "changes",
    [
        {"x_train": np.zeros((20, 28, 28))},
        {"x_train": np.zeros((20, 784), np.uint8)},
        {"x_test": np.zeros((10, 1, 28, 28), np.uint8)},
        {"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.uint8)},
        {"y_test": np.zeros(3, np.uint8)},
        {"y_test": np.zeros((10, 1), np.uint8)},
        {"y_test": np.full(10, 10, np.uint8)},
        {"y_test": np.zeros(10)},
        {"y_train": np.array([None])},
    ],
)
def test_malformed_data_are_refused(folders, changes):
    write(folders, **changes)
    with pytest.raises(UserError, match=r"mnist\.npz"):
        datasets.load("mnist")


@pytest.mark.parametrize("content", [b"", b"PK", b"nonsense"])
def test_files_that_are_no_npz_are_refused(folders, content):
    path, _ = write(folders)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mnist\.npz: expected the arrays"):
        datasets.load("mnist")


def test_what_numpy_does_not_take_is_one_line(folders):
    """What is no array, what needs a password, and more images than there is memory."""
    path, _ = write(folders)
    arrays = path.read_bytes()
    with ZipFile(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr("x_test.npy", b"no array")
    with pytest.raises(UserError, match=r"mnist\.npz: expected the arrays .* \(x_test is no array\)"):
        datasets.load("mnist")
    secret = bytearray(arrays)
    for start in (secret.find(b"PK\x01\x02") + 8, 6):
        secret[start] |= 1
    path.write_bytes(bytes(secret))
    with pytest.raises(UserError, match=r"mnist\.npz: expected the arrays .* password"):
        datasets.load("mnist")
    path.write_bytes(arrays.replace(b"(20, 28, 28), }" + b" " * 11, b"(9999999999999, 28, 28), }", 1))
    with pytest.raises(UserError, match=r"mnist\.npz: expected the arrays"):
        datasets.load("mnist")


def test_a_single_array_is_refused(folders):
    path, _ = write(folders)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="expected the arrays"):
        datasets.load("mnist")


def test_runs_can_be_read_where_the_data_are_not(folders):
    """The small file beside the dataset is enough for the ids of its runs; training still needs the dataset."""
    _write_cifar(folders / "data")
    known = datasets.fingerprint("cifar10")
    (folders / "data" / "cifar10.npz").unlink()
    assert datasets.fingerprint("cifar10") == known
    with pytest.raises(UserError, match="missing"):
        datasets.load("cifar10")


def test_figures_of_a_known_variant_say_so(folders, monkeypatch):
    _write_cifar(folders / "data")
    assert copies.variant("cifar10") == ""
    monkeypatch.setitem(copies.VARIANTS, datasets.fingerprint("cifar10"), "CIFAR-10 (JPEG)")
    assert copies.variant("cifar10") == "CIFAR-10 (JPEG)"
    figure, axis = plt.subplots(layout="constrained")
    axis.set_xlabel("epoch")
    save.save(figure, "x", Results([Run(data="cifar10", model="resnet20")], "smoke"))
    assert "CIFAR-10 (JPEG)" in (folders / "figures" / "smoke" / "x.json").read_text()
    (note,) = figure.texts
    assert note.get_text() == "CIFAR-10 (JPEG)"
    below, above = note.get_window_extent(), axis.xaxis.label.get_window_extent()
    assert below.y1 <= above.y0, "the note lies below what it must not cover"


def _write_cifar(folder):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 20, dtype=np.uint8)
    np.savez(folder / "cifar10.npz", x_train=x, y_train=y, x_test=x, y_test=y)


def test_cifar100_trains(folders):
    """A hundred classes, crops and flips, from an npz file."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8), np.arange(200, dtype=np.uint8) % 100
    (folders / "data").mkdir()
    np.savez(folders / "data" / "cifar100.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    run = Run(data="cifar100", model="resnet20", augment=True, train_size=32, batch_size=16, epochs=1, minima_every=1)
    trainer = Trainer(run)
    row = trainer.epoch()
    assert trainer.snapshot()["logits"].shape == (10, 100)
    # Who knows nothing of a hundred classes; He-normal weights of the last layer add half the variance of its outputs.
    assert np.log(100) - 0.5 < row["train_loss"] < np.log(100) + 3


def test_digits_of_ones_own_are_not_passed_over(tmp_path, monkeypatch):
    """The embedded ones have that name already."""
    monkeypatch.setenv("THESIS_DATA", str(tmp_path))
    (tmp_path / "mnist5k.npz").write_bytes(b"")
    datafiles.mnist5k.cache_clear()
    with pytest.raises(UserError, match=r"mnist5k.npz would not be read.*give it another name"):
        datasets.load("mnist5k")
