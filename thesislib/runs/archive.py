"""Finished runs without their weights in one small file, so that others draw the figures without training.

An archived run has what a figure reads: configuration, metrics, summary, and what was computed from weights and
predictions (`cache`). data.json names the exact datasets, without which a run's id means nothing; facts.json has what
there is to know of those that are one's own, which are not where the runs are drawn.
"""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from pydantic import Field, RootModel

from thesislib import datasets
from thesislib.config import Run
from thesislib.runs import store
from thesislib.runs.finished import Result, load, read_config
from thesislib.system import datafiles, files
from thesislib.system.errors import UserError

#: What of a run's folder is archived.
_FILES = r"(?:config|done)\.json|(?:model|kernel)\.py|(?:metrics|steps)\.csv|(?:losses|derived-[\w.-]+)\.safetensors"
#: A file that unpacks to more bytes is none of ours, by the end of its name; the largest of thesis scale have a tenth.
_LARGEST = {".json": 2**20, ".py": 2**20, ".csv": 2**26, ".safetensors": 2**28}


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]*$")]


class _Fingerprints(RootModel[dict[_Name, store.Fingerprint]]):
    """data.json: the datasets that the runs saw."""


class _Facts(RootModel[dict[_Name, datafiles.NotedFacts]]):
    """facts.json: shape, classes, images, mean and deviation of those of one's own."""


def pack(runs: Iterable[Run], path: Path) -> int:
    """Write all of these runs that are finished to a zip file, without their weights; how many there are.

    The same runs give the same file, byte for byte. Raises UserError if none is finished, or one is broken.
    """
    done = {store.run_id(run): run for run in runs if store.is_done(run)}
    if not done:
        raise UserError(f"none of these runs is finished in {store.runs_folder()}: nothing to pack")
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file's name, such as {path / 'runs.zip'}")
    if path.is_file() and not _is_archive(path):
        raise UserError(f"{path} is there, and no archive of runs: it stays; give another name, such as runs.zip")
    files.make_writable(path.parent, "archived runs", "--file or THESIS_FIGURES")
    folders = [load(done[identity]).folder for identity in sorted(done)]
    if problems := _problems(folders):
        raise UserError(f"nothing packed: {problems}; delete these runs, or these files, to have them made anew")
    fingerprints = {name: datasets.fingerprint(name) for name in sorted({run.data for run in done.values()})}
    with files.replacing(path) as temporary, ZipFile(temporary, "w") as file:
        _add(file, "data.json", json.dumps(fingerprints).encode())
        if facts := _facts_of_own(fingerprints):
            _add(file, "facts.json", json.dumps(facts).encode())
        for folder in folders:
            for part in sorted(folder.iterdir()):
                if re.fullmatch(_FILES, part.name):
                    _add(file, f"{folder.name}/{part.name}", part.read_bytes())
    return len(done)


def _facts_of_own(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The facts of datasets of one's own, but of those that are not here and were noted by an earlier version."""
    found = {}
    for name in names:
        if name not in datasets.KNOWN:
            with contextlib.suppress(UserError):
                found[name] = datasets.facts(name)._asdict()
    return found


def _is_archive(path: Path) -> bool:
    """Whether a file is one that `pack` wrote, as far as its names say."""
    with contextlib.suppress(BadZipFile), ZipFile(path) as file:
        return "data.json" in file.namelist()
    return False


def _add(file: ZipFile, name: str, content: bytes) -> None:
    file.writestr(ZipInfo(name), content, ZIP_DEFLATED, 9)  # ZipInfo's date is fixed: 1980


def _problems(folders: list[Path], fingerprints: dict[str, str] | None = None) -> str:
    """A line of what is wrong with finished runs, as far as they are archived; empty if nothing is.

    `fingerprints` are those of the datasets that they should have seen (None: any).
    """
    found = [f"run {folder.name}: {why}" for folder in folders if (why := _problem(folder, fingerprints))]
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} further runs" if len(found) > 3 else "")


def _problem(folder: Path, fingerprints: dict[str, str] | None) -> str:
    try:
        config = read_config(folder)
        if config.earlier:
            return f"it is {config.earlier}"
        config.check_texts(folder)
        Result(config.run, folder).check()
    except files.Broken as error:
        return f"{error.path.name} is broken: {error.why}"
    if fingerprints is not None and fingerprints.get(config.run.data) != config.data:
        return "it saw other data than data.json says"
    return ""


class Unpacked(NamedTuple):
    """Numbers of runs: those that came, all in the file, and those that were begun here and stay as they are."""

    new: int
    all: int
    begun: int


def unpack(path: Path) -> Unpacked:
    """Put the runs of a zip file among those here.

    A run that is finished here, or was begun, stays as it is; a finished one gets what was computed from it if it is
    the same to the bit. Raises UserError, before anything is written, if the file is not what `pack` writes, or was
    made with other data than those here.
    """
    with TemporaryDirectory() as scratch:
        try:
            with files.reading(path), path.open("rb") as stream:
                stream.read(1)  # zipfile knows no difference between a broken disk and a broken file
            folders, fingerprints, facts = _extract(path, Path(scratch))
        # RuntimeError is zipfile's for a password.
        except (files.Broken, RuntimeError, BadZipFile, zlib.error, EOFError, ValueError) as error:
            inside = isinstance(error, files.Broken)
            reason = f"{error.path.name}: {error.why}" if inside else str(error) or type(error).__name__
            raise UserError(f"{path} holds no archived runs that can be used here ({reason})") from None
        _agree_on_data(fingerprints, facts)
        files.make_writable(store.runs_folder(), "runs", "THESIS_RUNS")
        placed = [_place(folder) for folder in folders]
    return Unpacked(placed.count("new"), len(placed), placed.count("begun"))


def _extract(path: Path, scratch: Path) -> tuple[list[Path], dict[str, str], dict[str, datafiles.NotedFacts]]:
    """The folders of all runs in the file, their datasets' fingerprints, and facts of those of one's own.

    Raises ValueError if it is not ours.
    """
    with ZipFile(path) as file:
        for info in file.infolist():
            if info.file_size > _LARGEST.get(Path(info.filename).suffix, 0):
                raise ValueError(f"{info.filename} unpacks to {info.file_size:,} bytes")
            if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                raise ValueError(f"{info.filename} is compressed by another method")
            if not re.fullmatch(rf"(?:data|facts)\.json|[0-9a-f]{{12}}/(?:{_FILES})", info.filename):
                raise ValueError(f"{info.filename} does not belong there")
        file.extractall(scratch)  # what unpacks to more than its size says is refused by zipfile
    folders = sorted(part for part in scratch.iterdir() if part.is_dir())
    if not folders or not (scratch / "data.json").is_file():
        raise ValueError("no data.json, or no runs")
    fingerprints = files.read_json(scratch / "data.json", _Fingerprints).root
    if problems := _problems(folders, fingerprints):
        raise ValueError(problems)
    if unseen := fingerprints.keys() - {read_config(folder).run.data for folder in folders}:
        raise ValueError(f"data.json names {min(unseen)}, which none of these runs saw")
    facts = files.read_json(part, _Facts).root if (part := scratch / "facts.json").is_file() else {}
    if unseen := facts.keys() - fingerprints.keys():
        raise ValueError(f"facts.json names {min(unseen)}, which none of these runs saw")
    return folders, fingerprints, facts


def _agree_on_data(fingerprints: dict[str, str], facts: dict[str, datafiles.NotedFacts]) -> None:
    """Note which datasets the runs saw where there are none; raise UserError where there are others."""
    folder, absent = datafiles.data_folder(), {}
    for name, theirs in fingerprints.items():
        note, here = datafiles.note_path(name), (folder / f"{name}.npz").is_file()
        of_own = {"facts": facts[name].model_dump()} if name in facts else {}
        if name != "mnist5k" and not here and not note.is_file():
            absent[note] = {"sha256": theirs} | of_own
        elif (ours := datasets.fingerprint(name)) != theirs:
            raise UserError(
                f"these runs saw another copy of {name} ({theirs}) than the one in {folder} ({ours}): "
                "set THESIS_DATA to an empty folder to use them"
            )
        elif of_own and not here and not (known := datafiles.noted(name)).facts:
            absent[note] = known.model_dump(exclude={"facts"}) | of_own
    for note, content in absent.items():
        files.make_writable(folder, "the names of the data", "THESIS_DATA")
        files.write_json(note, content)


def _place(archived: Path) -> Literal["new", "begun", "finished"]:
    """Copy one run to its folder unless it was finished or begun there; which it was.

    One that is finished there only gets what was computed from it, if its numbers agree.
    """
    config = read_config(archived)
    run = config.run
    with store.writing(run, config) as writer:
        if not writer.done and (writer.folder / "checkpoint.safetensors").is_file():
            return "begun"
        done, alike = writer.done, writer.done and _alike(Result(run, archived), Result(run, writer.folder))
        if not done:
            writer.forget_derived()
        # The summary says that what it has digests of is there, and that what was computed later is this run's.
        parts = sorted(archived.iterdir(), key=lambda path: (_is_derived(path), path.name == "done.json"))
        for path in parts:
            if not done or (alike and _is_derived(path) and not (writer.folder / path.name).is_file()):
                files.write(writer.folder / path.name, path.read_bytes())
    return "finished" if done else "new"


def _is_derived(path: Path) -> bool:
    return path.name.startswith("derived-")


def _alike(theirs: Result, ours: Result) -> bool:
    """Whether two runs' metrics agree but for the seconds: what another processor rounds differently is not our run.

    One of ours that is broken agrees with none.
    """
    try:
        one, other = (result.history.drop(columns=["seconds", "train_seconds"]) for result in (theirs, ours))
    except UserError:
        return False
    return one.equals(other)
