"""Finished runs without their weights in one small file, so that others draw the figures without training.

A record has what a figure reads: configuration, metrics, summary, and what was derived from weights and predictions
(`derived`). data.json names the exact datasets, without which a run's id means nothing.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from thesislib import datasets, store
from thesislib.config import NETWORK_VERSIONS, Run, UserError
from thesislib.files import make_writable, parse_metrics, read_metrics, replacing, write
from thesislib.results import load

_DATASETS = ("mnist5k", *datasets.SHAPES)
#: What of a run's folder is in its record; done.json last, because it says that the rest is there.
_FILES = re.compile(r"config\.json|metrics\.csv|steps\.csv|losses\.safetensors|derived-[\w.-]+\.safetensors|done\.json")


def pack(runs: Iterable[Run], path: Path) -> int:
    """Write the records of all these runs that are finished to a zip file; how many there are.

    The same runs give the same file, byte for byte. Raises UserError if none is finished.
    """
    done = {store.run_id(run): run for run in runs if store.is_done(run)}
    if not done:
        raise UserError(f"none of these runs is finished in {store.runs_folder()}: nothing to pack")
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file's name, such as {path / 'runs.zip'}")
    make_writable(path.parent, "records", "--file or THESIS_FIGURES")
    prints = {name: datasets.fingerprint(name) for name in sorted({run.data for run in done.values()})}
    with replacing(path) as temporary, ZipFile(temporary, "w") as file:
        _add(file, "data.json", json.dumps(prints).encode())
        for identity in sorted(done):
            for part in sorted(load(done[identity]).folder.iterdir()):
                if _FILES.fullmatch(part.name):
                    _add(file, f"{identity}/{part.name}", part.read_bytes())
    return len(done)


def _add(file: ZipFile, name: str, content: bytes) -> None:
    file.writestr(ZipInfo(name), content, ZIP_DEFLATED, 9)  # ZipInfo's date is fixed: 1980


class Unpacked(NamedTuple):
    """Numbers of runs: those that came, all in the file, and those that were begun here and stay as they are."""

    new: int
    all: int
    begun: int


def unpack(path: Path) -> Unpacked:
    """Put the records of a zip file among the runs.

    A run that is finished here, or was begun, stays as it is; a finished one gets what was derived from it if it is
    the same to the bit. Raises UserError, before anything is written, if the file is not what `pack` writes, or was
    made with other data than those here.
    """
    try:
        with ZipFile(path) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        records = _by_run(parts)
        prints = {name: print_ for name, print_ in json.loads(parts["data.json"]).items() if name in _DATASETS}
        for identity, record in records.items():
            config = json.loads(record["config.json"])
            summary = json.loads(record["done.json"])
            whole = set(store.SUMMARY) <= summary.keys()
            parse_metrics(record["metrics.csv"], store.COLUMNS, summary["epochs"])
            run = Run(**config["run"])
            if config.get("network", 1) != NETWORK_VERSIONS.get(run.model, 1):
                raise ValueError(f"{identity} is of an earlier version of {run.model}, with other initial weights")
            if not whole or run.digest(config["data"]) != identity or prints[run.data] != config["data"]:
                raise ValueError(f"{identity} is not what its name says")
    # RuntimeError is zipfile's for a password, or a compression that is not built in.
    except (OSError, RuntimeError, BadZipFile, zlib.error, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} holds no records of runs ({reason})") from None
    _agree_on_data(prints)
    make_writable(store.runs_folder(), "runs", "THESIS_RUNS")
    placed = [_place(record) for record in records.values()]
    return Unpacked(placed.count("new"), len(placed), placed.count("begun"))


def _by_run(parts: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    records: dict[str, dict[str, bytes]] = {}
    for name, content in parts.items():
        identity, slash, part = name.partition("/")
        if slash and re.fullmatch(r"[0-9a-f]{12}", identity) and _FILES.fullmatch(part):
            records.setdefault(identity, {})[part] = content
        elif name != "data.json":
            raise ValueError(f"{name} does not belong there")
    return records


def _agree_on_data(prints: dict[str, str]) -> None:
    """Note which datasets the runs saw where there are none; raise UserError where there are others."""
    folder = datasets.data_folder()
    absent = {}
    for name, theirs in prints.items():
        note = folder / f"{name}.sha256.json"
        if name != "mnist5k" and not (folder / f"{name}.npz").is_file() and not note.is_file():
            absent[note] = theirs
        elif datasets.fingerprint(name) != theirs:
            raise UserError(
                f"these runs saw another copy of {name} ({theirs}) than the one in {folder} "
                f"({datasets.fingerprint(name)}): set THESIS_DATA to an empty folder to use them"
            )
    for note, theirs in absent.items():
        make_writable(folder, "the names of the data", "THESIS_DATA")
        write(note, json.dumps({"sha256": theirs}).encode())


def _place(record: dict[str, bytes]) -> Literal["new", "begun", "finished"]:
    """Write one record unless the run was finished or begun here; which it was.

    One that is finished here only gets what was derived, if its numbers agree.
    """
    config = json.loads(record["config.json"])
    with store.writing(Run(**config["run"])) as writer:
        if not writer.done and (writer.folder / "checkpoint.safetensors").is_file():
            return "begun"
        done, alike = writer.done, writer.done and _alike(record["metrics.csv"], writer.folder / "metrics.csv")
        for name in sorted(record, key=lambda name: name == "done.json"):
            if not done or (alike and name.startswith("derived-") and not (writer.folder / name).is_file()):
                write(writer.folder / name, record[name])
    return "finished" if done else "new"


def _alike(theirs: bytes, ours: Path) -> bool:
    """Whether two metrics.csv agree but for the seconds: another processor rounds differently, and its run is not ours.

    One of ours that is broken agrees with none.
    """
    try:
        tables = parse_metrics(theirs, store.COLUMNS), read_metrics(ours, store.COLUMNS)
    except UserError:
        return False
    one, other = (table.drop(columns=["seconds", "train_seconds"]) for table in tables)
    return one.equals(other)
