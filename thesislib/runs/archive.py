"""Finished runs without their weights in one small file, so that others draw the figures without training.

A record has what a figure reads: configuration, metrics, summary, and what was derived from weights and predictions
(`cache`). data.json names the exact datasets, without which a run's id means nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from pydantic import ValidationError

from thesislib import datasets
from thesislib.runs import store
from thesislib.config import Run
from thesislib.system.errors import UserError
from thesislib.system.files import Broken, make_writable, replacing, unreadable, write, write_json
from thesislib.runs.results import Result, load, read_config
from thesislib.runs.schema import Fingerprints

#: What of a run's folder is in its record; done.json last, because it says that the rest is there.
_FILES = re.compile(r"config\.json|metrics\.csv|steps\.csv|losses\.safetensors|derived-[\w.-]+\.safetensors|done\.json")
#: A file that unpacks to more bytes is none of ours, by the end of its name; the largest of thesis scale have a tenth.
_LARGEST = {".json": 2**20, ".csv": 2**26, ".safetensors": 2**28}


def pack(runs: Iterable[Run], path: Path) -> int:
    """Write the records of all these runs that are finished to a zip file; how many there are.

    The same runs give the same file, byte for byte. Raises UserError if none is finished, or one is broken.
    """
    done = {store.run_id(run): run for run in runs if store.is_done(run)}
    if not done:
        raise UserError(f"none of these runs is finished in {store.runs_folder()}: nothing to pack")
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file's name, such as {path / 'runs.zip'}")
    make_writable(path.parent, "records", "--file or THESIS_FIGURES")
    if problems := {i: why for i in sorted(done) if (why := _problem(load(done[i]).folder))}:
        raise UserError(
            f"nothing packed: {_listed(problems)}; delete these runs, or these files, to have them made anew"
        )
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


def _problem(folder: Path) -> str:
    """What is wrong with a finished run, as far as it is in its record; empty if nothing is."""
    try:
        config = read_config(folder)
        if config.earlier:
            return f"it is {config.earlier}"
        Result(config.run, folder).check()
    except Broken as error:
        return f"{error.path.name} is broken: {error.why}"
    return ""


def _listed(problems: dict[str, str], most: int = 3) -> str:
    """A line of what is wrong with runs, by id."""
    some = [f"run {identity}: {why}" for identity, why in problems.items()][:most]
    further = len(problems) - len(some)
    return "; ".join(some) + (f"; and {further} further runs" if further else "")


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
    with _opened(path) as file, TemporaryDirectory() as scratch:
        try:
            members, prints = _members(file)
            unseen = set(prints)
            problems = {i: _unfit(_extracted(file, some, scratch), prints, unseen) for i, some in members.items()}
            if problems := {identity: problem for identity, problem in problems.items() if problem}:
                raise ValueError(_listed(problems))
            if unseen:
                raise ValueError(f"data.json names {min(unseen)}, which none of these runs saw")
        # RuntimeError is zipfile's for a password.
        except (RuntimeError, BadZipFile, zlib.error, EOFError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{path} holds no records of runs ({reason})") from None
        _agree_on_data(prints)
        make_writable(store.runs_folder(), "runs", "THESIS_RUNS")
        placed = [_place(_extracted(file, some, scratch)) for some in members.values()]
    return Unpacked(placed.count("new"), len(placed), placed.count("begun"))


@contextmanager
def _opened(path: Path) -> Iterator[ZipFile]:
    try:
        with path.open("rb") as stream:
            stream.read(1)  # zipfile knows no difference between a broken disk and a broken file
        file = ZipFile(path)
    except (FileNotFoundError, BadZipFile, ValueError) as error:
        raise UserError(f"{path} holds no records of runs ({getattr(error, 'strerror', None) or error})") from None
    except OSError as error:
        raise unreadable(path, error) from None
    with file:
        yield file


def _members(file: ZipFile) -> tuple[dict[str, list[ZipInfo]], dict[str, str]]:
    """The parts of each run, and the datasets' short names. Raises ValueError for what is none of ours."""
    members: dict[str, list[ZipInfo]] = {}
    for info in file.infolist():
        identity, slash, part = info.filename.partition("/")
        if info.file_size > _LARGEST.get(Path(info.filename).suffix, 0):
            raise ValueError(f"{info.filename} unpacks to {info.file_size:,} bytes")
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ValueError(f"{info.filename} is compressed by another method")
        if slash and re.fullmatch(r"[0-9a-f]{12}", identity) and _FILES.fullmatch(part):
            members.setdefault(identity, []).append(info)
        elif info.filename != "data.json":
            raise ValueError(f"{info.filename} does not belong there")
    if "data.json" not in file.NameToInfo or not members:
        raise ValueError("no data.json, or no runs")
    try:
        return members, Fingerprints.model_validate_json(file.read("data.json")).root
    except ValidationError:
        raise ValueError("data.json does not name datasets") from None


def _extracted(file: ZipFile, members: list[ZipInfo], scratch: str) -> Path:
    """One run's record as a folder, in place of the one before: together they may be large."""
    identity = members[0].filename.partition("/")[0]
    for before in Path(scratch).iterdir():
        shutil.rmtree(before)
    # What unpacks to more than its size says is refused by zipfile.
    for info in members:
        file.extract(info, scratch)
    return Path(scratch) / identity


def _unfit(folder: Path, prints: dict[str, str], unseen: set[str]) -> str:
    """What is wrong with a record among those of runs on this data; empty if nothing is. Its data are seen then."""
    if problem := _problem(folder):
        return problem
    config = read_config(folder)
    if prints.get(config.run.data) != config.data:
        return "it saw other data than data.json says"
    unseen.discard(config.run.data)
    extra = {"steps.csv": config.run.dense_steps, "losses.safetensors": config.run.step_losses}
    foreign = [name for name, asked in extra.items() if not asked and (folder / name).is_file()]
    return f"{foreign[0]} does not belong there" if foreign else ""


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
        write_json(note, {"sha256": theirs})


def _place(record: Path) -> Literal["new", "begun", "finished"]:
    """Write one record unless the run was finished or begun here; which it was.

    One that is finished here only gets what was derived, if its numbers agree.
    """
    run = read_config(record).run
    with store.writing(run) as writer:
        if not writer.done and (writer.folder / "checkpoint.safetensors").is_file():
            return "begun"
        done, alike = writer.done, writer.done and _alike(Result(run, record), Result(run, writer.folder))
        for path in sorted(record.iterdir(), key=lambda path: path.name == "done.json"):
            if not done or (alike and path.name.startswith("derived-") and not (writer.folder / path.name).is_file()):
                write(writer.folder / path.name, path.read_bytes())
    return "finished" if done else "new"


def _alike(theirs: Result, ours: Result) -> bool:
    """Whether two runs' metrics agree but for the seconds: what another processor rounds differently is not our run.

    One of ours that is broken agrees with none.
    """
    try:
        one, other = (result.history.drop(columns=["seconds", "train_seconds"]) for result in (theirs, ours))
    except UserError:
        return False
    return one.equals(other)
