"""Files that are whole or not there, checked when they are read, and one clear line about those that are broken."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import re
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from filelock import AcquireReturnProxy, FileLock, SoftFileLock, Timeout
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from thesislib.system.errors import UserError, printable

if TYPE_CHECKING:
    import pandas as pd


#: The folder beside the package: notebooks/, figures/, runs/ and data/ lie there.
ROOT = Path(__file__).resolve().parents[2]

#: Variables that move three folders elsewhere, and the folders' names beside the package.
FOLDERS = {"THESIS_RUNS": "runs", "THESIS_DATA": "data", "THESIS_FIGURES": "figures"}

#: Errors of a disk, or a user's share of it, that takes nothing more.
FULL = (errno.ENOSPC, errno.EDQUOT)

#: What stands behind a dot, the name and a dot while a file is written (`replacing`).
ABANDONED = "[0-9a-f]{16}"

#: Bytes of a name that files are called by: a disk takes 255, with what stands before and behind it.
LONGEST_NAME = 100

#: Nobody writes on one file for so many seconds.
WRITTEN_SECONDS = 3600.0

#: What is said of a file with another digest.
OTHER = "its digest is another: it was damaged, edited or exchanged"

#: After so many seconds a process that waits for a lock says for whom.
PATIENCE = 5.0

Schema = TypeVar("Schema", bound=BaseModel)


def folder(variable: str) -> Path:
    """The folder that one of FOLDERS names, absolute. Raises UserError if its name cannot be used."""
    text = os.environ.get(variable) or str(ROOT / FOLDERS[variable])
    try:
        path = Path(text).expanduser().absolute()
        str(path).encode()  # safetensors and JSON know no other names
    except UnicodeEncodeError:
        raise UserError(f"{variable}: the name of folder {text} is not UTF-8; give another one") from None
    except (RuntimeError, OSError) as error:  # nobody of that name after ~, a working directory that is gone
        raise UserError(f"{variable}: {error}, in {text}") from None
    return path


def settle_folders() -> None:
    """Write the three variables anew as absolute paths: processes that work elsewhere must mean the same folders."""
    for variable in FOLDERS:
        if os.environ.get(variable):
            os.environ[variable] = str(folder(variable))


def make_writable(folder: Path, what: str, variable: str) -> None:
    """Make the folder where `what` goes. Raises UserError, naming the `variable` to set, if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write {what} to {folder}: {error.strerror} (set {variable})") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside it to write to; on success it takes the place of `path`, else nothing of it stays.

    Raises OSError, which names `path`, if the disk is full or the folder may only be read.
    """
    # At random: in containers, and on the hosts of one store, processes have equal numbers.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with _naming(path):
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the disk name this path; those of safetensors, which has no kind of its own for them, too."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error), str(path)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def sweep(folder: Path, names: str, older: float = WRITTEN_SECONDS) -> None:
    """Delete what was left by processes that were killed while they wrote (`replacing`) a file of such a name.

    `names` is a regular expression. Somebody may be writing a file just now, unless a lock says that nobody is: only
    what is `older`, in seconds, is surely left.
    """
    left = re.compile(rf"\.(?:{names})\.{ABANDONED}")
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):  # somebody else was faster, or the folder may only be read
            if left.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older:
                path.unlink()


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole: a kill at any moment leaves the old content or the new. Raises as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file. Raises OSError, which names it, if the disk is full."""
    with _naming(path), path.open("ab") as file:
        file.write(content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file as a whole, with a digest of its content, against which `read_json` reads."""
    write(path, json.dumps(content | {"digest": _digest_of_json(content)}, indent=1).encode())


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Replace a safetensors file as a whole, as `write` does, without a copy of the arrays in memory; its digest.

    Its metadata name the file itself and a digest of each array, against which `read_arrays` reads.
    """
    # safetensors writes memory as it lies: an array in another order would come back shuffled.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    digests = {name: _digest_of_array(name, array) for name, array in arrays.items()}
    text = json.dumps({"file": path.name, "arrays": digests}, sort_keys=True)
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(arrays, temporary, {"digests": text})  # one entry: it keeps several in no order
        temporary.chmod(mode)  # as all other files: safetensors lets nobody else read its own
    return digest(text.encode())


def digest(content: bytes) -> str:
    """A short name of this exact content: of SHA-256, the fastest on processors that know it, 32 hex digits."""
    return hashlib.sha256(content).hexdigest()[:32]


def _digest_of_json(content: dict[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True).encode())


def _digest_of_array(name: str, array: np.ndarray) -> str:
    hashed = hashlib.sha256(f"{name} {array.dtype.str} {array.shape} ".encode())
    hashed.update(array.reshape(-1).view(np.uint8))
    return hashed.hexdigest()[:32]


class Broken(UserError):
    """A file is not what it should be: which, why, and what to do about it."""

    def __init__(self, path: Path, why: object, advice: str = "") -> None:
        self.path, self.why, self.advice = path, (str(why).splitlines() or [""])[0], advice
        super().__init__(f"{path} is broken ({self.why}): {advice or f'delete {path.parent} to train this run again'}")

    def __reduce__(self) -> tuple[type[Broken], tuple[Path, str, str]]:
        """As it comes out of another process: an exception would be made anew of its message alone."""
        return Broken, (self.path, self.why, self.advice)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Reading a file raises Broken if it is not there, UserError if nobody knows whether it is what it should be."""
    try:
        yield
    except FileNotFoundError:
        raise Broken(path, "no such file") from None
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{path} cannot be read ({why}): see to its permissions, or to its disk") from None


def read(path: Path) -> bytes:
    """A file's content. Raises as `reading` does."""
    with reading(path):
        return path.read_bytes()


def check_name(kind: str, name: str) -> None:
    """Raise UserError if this cannot name a file or folder of ours: it would be in another folder, or out of sight."""
    # Disks count bytes, and a letter may take four.
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w -]*", name) or len(name.encode()) > LONGEST_NAME:
        made_of = f"letters, digits, _, - and blanks, {LONGEST_NAME} bytes at most"
        raise UserError(f"the name of a {kind} is made of {made_of}, not {name!r}")


def read_json(path: Path, schema: type[Schema]) -> Schema:
    """A JSON object of that form. Raises Broken if it is another, or not what was written, else as `reading` does."""
    try:
        content = json.loads(read(path))
        if isinstance(content, dict) and "digest" in content and content.pop("digest") != _digest_of_json(content):
            raise Broken(path, OTHER)
    except (ValueError, RecursionError) as error:
        raise Broken(path, error) from None
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise Broken(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")) from None
    except UserError as error:  # a run's
        raise Broken(path, error) from None


def read_arrays(path: Path, names: Iterable[str] = (), expected: str | None = None) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, or only those named.

    Raises UserError for a name that it does not have, Broken if they are not those that were written under this name,
    or the file's digest is not the one that is `expected`; else as `reading` does.
    """
    try:
        with reading(path):
            path.open("rb").close()  # safetensors calls a file without permission one that is not there
            with safe_open(path, framework="numpy") as file:
                there, text = set(file.keys()), (file.metadata() or {}).get("digests", "{}")
                wanted = set(names) or there
                arrays = {name: file.get_tensor(name) for name in file.keys() if name in wanted}  # noqa: SIM118
        known = json.loads(text)
        whole = expected in (None, digest(text.encode()))
        whole &= known["file"] == path.name and known["arrays"].keys() == there
        whole &= all(_digest_of_array(name, array) == known["arrays"][name] for name, array in arrays.items())
    except (SafetensorError, ValueError, RecursionError) as error:
        raise Broken(path, error) from None
    except (KeyError, TypeError, AttributeError):  # no digests, or not of that form
        whole = False
    if not whole:
        raise Broken(path, OTHER)
    if unknown := sorted(wanted - there):
        raise UserError(f"{printable(path)} has no array {unknown[0]!r}: choose from {', '.join(sorted(there))}")
    return arrays


def read_table(path: Path, columns: Iterable[str], expected: str | None) -> pd.DataFrame:
    """A CSV file of numbers with this digest. Raises Broken if it has another one, else as `reading` does.

    One of `columns` that it lacks, because it is of an earlier version, is NaN; stderr names each of them once.
    """
    content = read(path)
    if digest(content) != expected:
        raise Broken(path, OTHER)
    table = parse_table(content)
    for name in columns:
        if name not in table:
            _say_once(f"thesislib: no {name} in {path.name} of runs that were trained before there was one: it is NaN")
            table[name] = np.nan
    return table


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def parse_table(content: bytes) -> pd.DataFrame:
    """A table of numbers from the content of a CSV file."""
    # Imported here: it takes a third of a second, and the loop does not need it.
    import pandas as pd

    return pd.read_csv(io.BytesIO(content), float_precision="round_trip", dtype=float)


def lock(path: Path) -> AcquireReturnProxy:
    """Wait until this process is the only one that has the lock; `with` releases it. Says so if it takes long.

    Raises OSError if the file cannot be written.
    """
    own = FileLock(path)
    try:
        held = own.acquire(timeout=PATIENCE)
    except Timeout:
        advice = "if that process is gone, delete this file"
        waiting = f"thesislib: waiting for {printable(path)}, held by {_holder(path)}: {advice}"
        print(waiting, file=sys.stderr, flush=True)
        held = own.acquire()
    if not isinstance(own, SoftFileLock):  # which, where the file system knows no flock, writes the same itself
        with contextlib.suppress(OSError):  # a full disk: the lock is held all the same, only without a name
            path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
    return held


def _holder(path: Path) -> str:
    """Who wrote a lock: by its own content, which may be gone or another program's."""
    with contextlib.suppress(OSError, ValueError):
        process, host, *_ = path.read_text(errors="replace").split("\n")
        if host:
            return f"process {int(process)} on {printable(host)}"
    return "a process that left no name"
