"""The id of a run, which names its folder: a hash of all that its numbers depend on."""

from __future__ import annotations

import hashlib
import json

from thesislib.config import NETWORK_VERSIONS, Run

#: Fields that came after the first published runs: at their default they are left out of the id, so that runs which
#: were trained before keep theirs.
LATER = frozenset(
    ("augmented_test", "dense_steps", "swa_from", "statistics_images", "member_epochs", "step_losses", "validation")
    + ("hill_at", "push", "distance")
)

#: Raise when the meaning of a configuration changes: old runs are then found no more, and train anew.
REVISION = 1


def digest(run: Run, fingerprint: str, sources: dict[str, str] | None = None) -> str:
    """The id: 12 hex digits of SHA-256 over every field (defaults too, but for LATER), the data and REVISION.

    With a network or kernel of one's own over its source text too, that of now or the one given by `sources`.
    """
    fields = run.model_dump(mode="json")
    fields = {k: v for k, v in fields.items() if k not in LATER or v != Run.model_fields[k].default}
    content = {"run": fields, "data": fingerprint, "revision": REVISION}
    if run.strength_schedule == "pulse" and run.offset:
        content["pulse"] = 2  # before, it had its full strength until the offset
    if run.model in NETWORK_VERSIONS:
        content["network"] = NETWORK_VERSIONS[run.model]
    if sources := run.sources() if sources is None else sources:
        content["sources"] = sources
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
