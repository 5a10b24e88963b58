"""The statements that the claims are made of: they can be tested at every scale, and stay what they were."""

import importlib.util

import pytest

from thesislib.experiments import sections, statements
from thesislib.experiments.scales import SCALES
from thesislib.runs.growth import LEFT, growth
from thesislib.system.files import ROOT

#: The rules that were frozen on `statements.FROZEN`. A change of the rules belongs into docs/RULES.md, with its date.
DIGEST = "94708821"


def test_rules_are_those_that_were_frozen():
    assert statements.digest() == DIGEST


def test_the_page_of_rules_is_not_stale():
    spec = importlib.util.spec_from_file_location("rules", ROOT / "docs" / "rules.py")
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    assert rules.PAGE.read_text() == rules.page(), "run: python docs/rules.py"


@pytest.mark.parametrize("scale", SCALES)
def test_every_side_is_there_and_every_claim_once_in_order(scale):
    found = statements.statements(scale)
    known = {(row.section, row.label) for row in sections.rows("9_claims", scale) if row.role == "curve"}
    for statement in found:
        assert {(side.section, side.label) for side in (statement.left, statement.right)} <= known
        assert statement.left != statement.right
    assert list(dict.fromkeys(s.claim for s in found)) == [f"C{k}" for k in range(1, 15)]
    assert len({(s.claim, s.says) for s in found}) == len(found), "each statement has words of its own"
    for left in (by * LEFT for by in statements.OTHERS):
        other = statements.statements(scale, left)
        assert {(side.section, side.label) for s in other for side in (s.left, s.right)} <= known, "by another N, too"


@pytest.mark.parametrize("scale", ["laptop", "mnist", "cifar", "thesis"])
def test_every_claim_can_be_tested_at_every_scale(scale):
    """At least one statement of each has hills that are left."""
    tested = {s.claim for s in statements.statements(scale) if statements.is_settled(s, scale)}
    assert tested == {f"C{k}" for k in range(1, 15)}


def test_where_the_thesis_leaves_its_hills_its_own_statement_stands_alone():
    def of(scale, claim):
        return [s for s in statements.statements(scale) if s.claim == claim]

    assert [statements.is_settled(s, "thesis") for s in of("thesis", "C1")] == [True]
    assert [statements.is_settled(s, "laptop") for s in of("laptop", "C1")] == [False, True]
    own, other = of("laptop", "C1")
    assert (own.left.label, other.left.label) == ("term", "s = 10")
    assert statements.least_growth(own, "laptop") == pytest.approx(2.046)
    assert statements.least_growth(other, "laptop") >= LEFT


@pytest.mark.parametrize("scale", SCALES)
def test_times_are_epochs_at_which_something_is_known(scale):
    """Accuracies over test images are known at minima; the epoch itself must be within the run."""
    runs = {(row.section, row.label): row.run for row in sections.rows("9_claims", scale, seeds=1)}
    for statement in statements.statements(scale):
        for side in (statement.left, statement.right):
            run = runs[side.section, side.label]
            for cycles in side.cycles:
                epoch = round(cycles * SCALES[scale].cycle)
                assert 1 <= epoch <= run.epochs
                if statement.quantity == "accuracy":
                    assert epoch in run.minimum_epochs


def test_hills_are_left_by_the_time_a_statement_is_read():
    """C8 reads its second cycle: four of the epochs with a hill have passed, of 30."""
    read = [s for s in statements.statements("laptop") if s.says.startswith("after the first drop of lr")]
    rows = sections.rows("9_claims", "laptop", seeds=1)
    for statement, strength in zip(read, (1, 100), strict=True):
        assert statement.right.cycles == (1.4,)
        run = next(row.run for row in rows if row.label == statement.right.label)
        by_hand = 4 * 31 * 4 * strength * run.width * run.lr / (1 - run.momentum)
        assert statements.least_growth(statement, "laptop") == pytest.approx(by_hand)
        assert growth(run) > 3 * by_hand
        assert growth(run, until=10) == 0
