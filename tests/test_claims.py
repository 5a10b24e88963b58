import numpy as np
import pytest

from thesislib import claims
from thesislib.verdicts import Part, interval, summary, verdict


def part(kind, unit, effects):
    return Part("C0", "says", kind, unit, np.array(effects, float))


@pytest.mark.parametrize(
    ("kind", "unit", "effects", "expected"),
    [
        ("more", "factor", [1.0, 1.1, 0.9], "reproduced"),
        ("more", "factor", [-1.0, -1.1, -0.9], "not reproduced"),
        ("more", "factor", [1.0, -1.1, 0.9], "undecided"),
        ("less", "points", [-2.0, -2.1, -1.9], "reproduced"),
        ("less", "points", [2.0, 2.1, 1.9], "not reproduced"),
        ("same", "points", [0.1, -0.1, 0.0], "reproduced"),
        ("same", "points", [5.0, 5.1, 4.9], "not reproduced"),
        ("same", "points", [-3.0, 3.0, 0.0], "undecided"),
        ("not more", "points", [-9.0, -9.1, -8.9], "reproduced"),
        ("not more", "points", [9.0, 9.1, 8.9], "not reproduced"),
        ("more", "factor", [1.0, 1.0], "undecided"),
        ("more", "factor", [1.0, np.nan, np.nan, 1.0], "undecided"),
    ],
)
def test_verdicts(kind, unit, effects, expected):
    assert verdict(part(kind, unit, effects)) == expected


def test_interval_covers_the_mean_of_few_seeds():
    """With three seeds a bare bootstrap covers the truth in 3 of 4 cases; 95 % are asked for."""
    rng = np.random.default_rng(0)
    covered = [low <= 0 <= high for low, high in (interval(rng.normal(size=3)) for _ in range(300))]
    assert np.mean(covered) > 0.92
    assert interval(np.array([1.0])) == (-np.inf, np.inf)
    assert interval(np.array([2.0, 2.0, 2.0])) == (2, 2)


def test_every_claim_is_answered(chapter, monkeypatch):
    """From the smoke chapter's real runs: one seed, so nothing may be decided."""
    from thesislib import sections
    from thesislib.results import Results

    for name, folder in chapter.environment.items():
        monkeypatch.setenv(name, folder)
    parts = claims.table(Results.load(sections.groups("9_claims", "smoke")), sections.SCALES["smoke"].cycle)
    claimed = summary(parts)
    assert list(claimed["claim"]) == [f"C{k}" for k in range(1, 15)]
    assert set(claimed["verdict"]) == {"undecided"}
