"""The form of the JSON files of runs and data, for those that write, read, pack and unpack them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from thesislib.config import NETWORK_VERSIONS, REVISION, Run

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
#: A dataset's short name, as `datasets.fingerprint` gives it.
Print = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

_EXACT = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Config(BaseModel):
    """config.json: what a run is, and on which data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Run
    data: Print
    revision: int
    network: int = 1

    @classmethod
    def of(cls, run: Run, data: str) -> Config:
        """That of a run that is trained now."""
        return cls(run=run, data=data, revision=REVISION, network=NETWORK_VERSIONS.get(run.model, 1))

    @property
    def earlier(self) -> str:
        """In which way a run of that kind would be another one today; empty if it would not."""
        if self.network != NETWORK_VERSIONS.get(self.run.model, 1):
            return f"of an earlier version of {self.run.model}, with other initial weights"
        return "" if self.revision == REVISION else f"of revision {self.revision}; this is revision {REVISION}"


class Summary(BaseModel):
    """done.json: how a run ended, and the digests of its files (runs of earlier versions have none)."""

    model_config = _EXACT

    id: Id
    status: Literal["finished", "diverged"]
    epochs: Annotated[int, Field(ge=1)]
    accuracy: Annotated[float, Field(ge=0, le=1)] | None
    nll: float | None
    squared_distances: list[Annotated[float, Field(ge=0)] | None]
    seconds: Annotated[float, Field(ge=0)]
    finished: str
    versions: dict[str, str]
    digests: dict[str, Digest] = {}


class Fingerprints(RootModel[dict[Literal["mnist5k", "mnist", "cifar10", "cifar100"], Print]]):
    """data.json of packed runs: the datasets that they saw."""
