"""Write docs/RULES.md: the rules by which verdicts are made, from `thesislib.experiments.statements`.

    python docs/rules.py

tests/test_statements.py fails when the page is stale, and when the rules are no longer those that were frozen.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from scipy import stats

from thesislib.experiments import sections, statements
from thesislib.experiments.scales import CHOOSING, FRESH, FRESHER, Scale
from thesislib.experiments.statements import BANDS, FROZEN, LEVEL, TABLE, WIDEST, Side
from thesislib.plots.tables import markdown

#: The days on which the rules of claims N1 and N2 were frozen.
FROZEN_N1, FROZEN_N2 = "2026-11-28", "2026-11-29"

PAGE = Path(__file__).with_name("RULES.md")
SCALES = ("laptop", "mnist", "cifar", "thesis")

TEXT = """<!-- Written by `python docs/rules.py`. Edit that, or thesislib/experiments/statements.py, not this. -->

# Rules

How a claim of the thesis gets its verdict. Frozen on {frozen}, digest `{digest}`: both stand in every table of claims.

Seeds 0 to 4 of `laptop` had been seen when this was written. Of `mnist` 0 to 2 had, and in section 7 all five. The
others were trained afterwards. Verdicts are of all seeds together; [RESULTS.md](RESULTS.md) says what the later ones
say alone. Of `cifar` seed 0 of sections 1, 2.1 and 2.2 had been seen. Its seeds 1 and 2 were trained for C1 to C6
first, then for C11 and C14, seed 0 of which had been trained in part. Seeds 0 to 2 then go to C8, after it to C9: the
schedules of section 5, of which only the constant rate had been seen. C10 follows: of section 3.1 nothing at ten times
the rate had been trained. C12 and C13 are next: of section 7 only the constant rate without the term had been, for
section 10. C7 is the last. Each time the claims that take the fewest runs came; which ones was decided before a result
of theirs was looked at. Two more seeds would be a second look. At `laptop` the learning rate and the cycle had been
chosen so that the term moves the network ([differences](DIFFERENCES.md)).

## From runs to an effect

A claim is one or more statements. A statement compares two settings in one quantity, paired by seed: both sides start
from the same weights and see the same batches. The tables at the end say what is compared.

| quantity | what is read | effect | the same: within |
| --- | --- | --- | --- |
| distance | squared distance to the first minimum | factor | a tenth, {low:.2f} to {high:.2f} |
| accuracy | share of test images that are right | points | a tenth of the baseline's errors, {widest:g} point at most |
| drop | errors at worst within a third of a cycle after the minimum, over those before | factor | a tenth |
| agreement | share of test images on which all members agree | points | a tenth of the images on which plain's do not |
| NLL | after temperature scaling, of an ensemble | nats | {nll:.0%} |
| cost | one more hill, of an epoch's seconds | percent | {cost:g} percent |

Where the bands come from: the thesis calls one point at ten percent of errors its noise, and 1.4 points of 23.5 of
disagreement no difference. NLL: about what the fifth network of a deep ensemble brings. They are not from our results.

## From an effect to an outcome

The interval is Student's, of 95 %. It runs over seeds, and for accuracy, agreement, NLL and Brier over test images:
another test set would have given other numbers. The variance is that of the crossed layout of seeds and images
(`thesislib/analysis/intervals.py`). Where runs kept no predictions of single images it is over seeds alone, and a
table says "images: 0". So it is at `mnist` but for section 10, at `cifar` for C4's "recovers", and under shift
everywhere. Fewer than three seeds have no outcome.

Temperatures are fitted on one random half of the test images and used on the other, both ways round, for five halvings.
Those of shifted images are fitted on the test images as they are.

| the interval lies | outcome |
| --- | --- |
| wholly above the band | more |
| wholly below it | less |
| wholly inside it | same |
| anywhere else | inconclusive |

At most one of them holds. So no data can support two statements that contradict each other
(three-sided testing: Goeman, Solari and Stijnen 2010).

## From an outcome to a verdict

{table}

Two more verdicts come before these.

- **not settled**: the statement is about where a trajectory is, and a hill has not been left by then. Just outside a
  minimum $\log d$ grows by $4 s w \eta / (1 - \mu)$ a step, until the statement is read by $N$ in all, of all hills
  together. Left means $N \geq 20$, by runs that had been seen. What the thesis says at $s = 1$ is tested there. Where
  that is not settled, it is tested at the least strength that is, too.
- **not testable**: the networks of both sides are right less than twice as often as guessing; or a premise fails. Then
  the whole claim is. A premise that is undecided leaves its claim undecided.

A claim is *not reproduced* if one of its statements is contradicted. With $m$ statements that are settled each must be
so at 1 − 0.05 / m, "same" on either side at 1 − 0.05 / 2m. So chance contradicts a true claim in 2.5 % or less. That is
one claim at one scale: of 40 true ones one on average. A claim is *reproduced* if all of its statements are that can be
tested. "The best" means better than each of the others, "least" less than the other end. A claim is judged once the
runs of all its statements are trained, and not before.

Tables that compare ensembles use the same intervals. The band is a tenth of the errors that the reference's members
have, 1 point at most, or 2 % of the reference's score. Under shift there is no band. "Equivalent" is inside the band,
and comes first. "Wins" and "loses" are differences from zero after Holm's correction over the table.

How much hangs on the bands and on $N \geq 20$ stands in section 9. It has every verdict with bands halved and doubled,
and with hills that count as left earlier or later. It also has those of later seeds alone, and those of accuracies by
BatchNorm's running statistics.

## What changed since

- **2026-11-25**, minutes after the freeze and before a seed was trained: two statements in fewer words (digest
  `10346b1e` before).
- **2026-11-29** (digest `711dbe8d` before): $N$ counts until a statement is read. Before it counted over the whole run,
  also where a statement is read in its second cycle. That concerns C8. At `mnist` two of its parts are now not settled
  at $s = 10$, where they had $N = 44$, now 13 and 14. C8 was *not reproduced* by one of them and is *undecided* now. No
  verdict of `laptop` changes.
- **2026-11-29**, after `laptop`, `mnist` and `fashion` had been tested: N1 says "lower NLL" where it said "better". Its
  test is unchanged. The band of tables is described as it always was computed, by the reference's members.
- **2026-11-30**: `mnist` got seeds 3 and 4 when the verdicts of seeds 0 to 2 were known. By three seeds C6 was
  *undecided*, by five it is *not reproduced*. So it is with C12, whose five seeds are all older than these rules. No
  other verdict changed. Two looks at one claim contradict it by chance in more than 2.5 %, at most 5.
- **2026-11-30**: an audit by a second program found every number and verdict as committed, and words missing here.
  These were always in the code: the point at most in tables, five halvings, what a premise does, what is settled among
  $m$, claims that wait for runs.
- **2026-11-30**: N1 says "each opponent below" where it said "any other that takes as many gradients", which is more
  than it tests. Its test is unchanged.
- **2026-11-30**, after C10 had been judged at `cifar`: section 9 shows verdicts by running statistics beside those by
  these rules. C10 alone differs by them: it is *undecided*.

The digest covers statements, bands and what outcomes say. Intervals and Holm's correction are code, under test.

## How many seeds

Half of the interval's width, in standard deviations of the effect over seeds. For a verdict "same" it must be less than
the band. Images add their part. Of ten seeds, 1,000 images each and 2 % of them on which two networks differ in being
right, that is 0.28 points if each seed had images of its own. They share them, which makes it more: 0.56 points for
C6 at w = 0.01.

{power}

`laptop` has ten seeds. `mnist` has five: with these its accuracies need an effect's deviation of 0.15
points or less.

## N1: better ensembles

Not the thesis' claim but ours. Hills make an ensemble of lower NLL than each opponent below, which takes as many
gradients. Each member is the mean of the weights over the end of its cycle. Frozen on {frozen_n1}, before a seed from
{fresh} on was trained.

1. One variant is chosen (section 10.1): the lowest scaled NLL of five members, mean over seeds 0 to 4. The images are
   the last quarter of the training images, and training has the others.
2. It is tested (section 10) on ten seeds from {fresh} on, and on test images. Each opponent has the scale's rate. Where
   section 7.1 chose another one, it is there a second time. The variant keeps the scale's.
3. Accuracy, scaled NLL and Brier score are compared as above, with Holm's correction over all of them. N1 *holds* if
   every opponent loses by scaled NLL. It *does not hold* if one wins or is equivalent. Else it is *undecided*.

Holm's correction is more than a claim about every opponent needs: without it 11 of 14 lose at `laptop`, with it 4. The
seeds are fresh, the test images of `laptop` are not: hills with means had been compared on them (section 7) before N1
was thought of. `fashion` is the scale of which nothing had been seen.

Opponents at the scale's rate were added on the same day, while these seeds were trained and before a result of theirs
was looked at. Until then opponents had the chosen rates alone. On seeds 0 to 9 of section 7 these turned out worse on
test images than the scale's, in the mean.

The two variants in function space are later still: they were added once `laptop` had been tested. There they leave the
choice as it was. At `mnist` they are tried before anything is chosen. Networks with BatchNorm have one more, "s = 10,
filters".

`mnist` trains both sections with products in bf16, hills and opponents alike: fp32 takes half as long again. This too
was written down before one of these runs was begun. Where section 7.1 is not trained, there are no chosen rates: at
`mnist` and `fashion` all opponents but plain means have one rate.

`fashion` tests the variant that was chosen on MNIST. At `cifar` choosing would take as long as the test. So it has the
strength of section 10.1 whose $N$ in a cycle is nearest to that of `mnist`'s choice (11). That is $s = 1$ (25), on five
seeds from {fresh} on. This was written down on 2026-11-29, before one of them was begun. By then a pilot of one seed
had shown $s = 10$ behind plain means. SWA there is the last of the plain means, which is one of half a cycle. This was
added later on that day, when two to four of these runs were done and nothing of them was looked at. As long as not all
opponents are trained, N1 cannot hold. The first three were looked at once all five seeds of theirs were trained. SWA
wins by so much ($p < 10^{{-8}}$) that no further opponent could change the verdict.

All cost five cycles, counted in gradients and evaluations. Hills need no further ones, but each step reads their
vectors. On the MLP that takes a fifth to a quarter of the time on top, in the median by the clocks of these runs. On
ResNet-20 nothing could be measured (section 8). This test does not charge it.

| section | settings |
| --- | --- |
| 10.1 | {variants} |
| 10, opponents | {opponents}, FGE where a cycle is long enough |

## N2: hills at the rate that suits them

Later than N1, and because of it: on MNIST means without hills at twice the rate cannot be told from hills at the
scale's. Do hills add anything once both have the rate that suits them? Frozen on {frozen_n2}, before a seed from
{fresher} on was trained. The test images are those of N1. At `laptop` section 10 had shown by then that on them twice
the rate makes plain means worse.

1. Plain means and the variant that N1 tests are trained at several rates (section 10.3): {factors} times the scale's.
   The images are split as for N1's choice. Each keeps the rate with the lowest scaled NLL of five members, mean over
   seeds 0 to {choosing}.
2. Each is tested at its rate on ten seeds from {fresher} on, and on test images.
3. Accuracy, scaled NLL and Brier score are compared as for N1, with Holm's correction over the three. N2 *holds* if
   plain means lose by scaled NLL. It *does not hold* if they win or are equivalent. Else it is *undecided*.

## Statements

The words are those of scale `thesis`; other scales differ in strengths and widths. $N$ is the smaller one of both
sides, "–" where there is no hill or it does not matter.

{statements}
"""


def _table() -> str:
    frame = pd.DataFrame(TABLE).T.rename_axis("expected").reset_index()
    return markdown(frame)


def _power() -> str:
    seeds = (3, 5, 10, 20)
    half = [f"{stats.t.ppf((1 + LEVEL) / 2, n - 1) / math.sqrt(n):.2f}" for n in seeds]
    return markdown(pd.DataFrame([half], columns=[f"n = {n}" for n in seeds]))


def _side(side: Side) -> str:
    times = " and ".join(f"{cycles:.3g}" for cycles in side.cycles)
    of = ", ensemble" if side.of == "ensemble" else ""
    return f"{side.section.split('_')[0]}: {side.label}{of}" + (f", after {times} cycles" if times else "")


def _growth(scale: str) -> pd.DataFrame:
    rows = []
    for statement in statements.statements(scale):
        n = statements.least_growth(statement, scale)
        rows.append(
            {
                "": statement.claim,
                "says": statement.says + (" (premise)" if statement.premise else ""),
                "expected": statement.expected,
                "in": statement.quantity,
                "of": _side(statement.left),
                "against": _side(statement.right),
                "N": f"{n:.3g}" if statement.settles and math.isfinite(n) else "–",
                "tested": "yes" if statements.is_settled(statement, scale) else "not settled",
            }
        )
    return pd.DataFrame(rows)


def _labels(section: str) -> str:
    """Labels of a section at laptop, without the variant that was chosen: it came later."""
    rows = sections.rows(section, "laptop", seeds=1)
    tried = {row.label for row in sections.rows("10-1_variants", "laptop") if row.run.strength}
    names = dict.fromkeys(row.label for row in rows if section == "10-1_variants" or row.label not in tried)
    return "; ".join(names)


def page() -> str:
    """docs/RULES.md."""
    tables = [f"### {scale}\n\n{markdown(_growth(scale))}" for scale in SCALES]
    tenth = 1 + BANDS["distance"]
    return TEXT.format(
        frozen=FROZEN, digest=statements.digest(), low=1 / tenth, high=tenth, widest=WIDEST, nll=BANDS["nll"],
        cost=BANDS["cost"], frozen_n1=FROZEN_N1, fresh=FRESH, variants=_labels("10-1_variants"),
        frozen_n2=FROZEN_N2, choosing=CHOOSING - 1, fresher=FRESHER,
        factors=", ".join(f"{factor:g}" for factor in Scale.tried_factors),
        opponents=_labels("10_better_ensembles"), table=_table(), power=_power(), statements="\n\n".join(tables),
    )  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE.name)
