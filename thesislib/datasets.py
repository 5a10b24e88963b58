"""What a dataset is: its form, checked, and a name of its exact content. Numpy only: reading runs needs no torch."""

from __future__ import annotations

from thesislib.config import Run
from thesislib.system import datafiles
from thesislib.system.datafiles import Arrays, Facts

_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
#: MNIST is normalised as in the thesis' SLS code base, and Fashion-MNIST (Xiao et al. 2017) like it.
KNOWN = {
    "mnist5k": Facts((1, 28, 28), 10, 4_000, 1_000, (0.5,), (0.5,)),
    "mnist": Facts((1, 28, 28), 10, 60_000, 10_000, (0.5,), (0.5,)),
    "fashion": Facts((1, 28, 28), 10, 60_000, 10_000, (0.5,), (0.5,)),
    "cifar10": Facts((3, 32, 32), 10, 50_000, 10_000, *_CIFAR),
    "cifar100": Facts((3, 32, 32), 100, 50_000, 10_000, *_CIFAR),
}


def fingerprint(name: str) -> str:
    """A short name of the dataset's exact content, part of every run's id.

    It does not depend on where the arrays came from. Without the dataset, what is written beside it is enough: who
    only reads runs, copied from elsewhere, copies that small file with them. Raises UserError if neither is there, or
    the dataset is malformed.
    """
    return datafiles.MNIST5K[:16] if name == "mnist5k" else datafiles.fingerprint(name, load)


def load(name: str) -> Arrays:
    """The whole dataset. Raises UserError if it is missing or not of the expected form."""
    if name == "mnist5k":
        return datafiles.mnist5k()
    known = KNOWN.get(name)
    return datafiles.checked(*datafiles.read(name), *(known[:2] if known else ()))


def facts(name: str) -> Facts:
    """What there is to know of a dataset; of one's own it is read off its images, or noted beside where they were.

    Raises UserError if neither is there, or the dataset is malformed.
    """
    return KNOWN[name] if name in KNOWN else datafiles.facts(name, load)


def test_images(run: Run) -> int:
    """Number of images that the run is evaluated on."""
    known = facts(run.data)
    whole = max(0, known.train - run.train_size) if run.validation else known.test
    return min(whole, run.test_size or whole)
