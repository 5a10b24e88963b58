"""Tables with a row a run: their columns, and "mean ± std" over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from thesislib.system.errors import UserError
from thesislib.system.fields import no_such

#: The columns that say which run a line of a table is of.
FRONT = ("section", "label", "role", "network", "seed", "member", "id")


def spread(values: pd.Series) -> str:
    """ "mean ± std", both with the decimals of the deviation's two leading digits; of a single number, itself.

    Where some are missing, as of networks that died, it is of the others and says of how many: "2.3 ± 0.1, n = 4".
    """
    numbers = values.dropna()
    if 0 < len(numbers) < len(values):
        return f"{spread(numbers)}, n = {len(numbers)}"
    if len(numbers) < 2:
        return "".join(f"{number:.4g}" for number in numbers)
    if not np.isfinite(numbers).all():  # of a network that exploded
        return f"{numbers.mean():g}"
    mean, deviation = numbers.mean(), numbers.std(ddof=1)
    if deviation <= 1e-9 * abs(mean):  # all the same, but for the rounding of their mean
        return f"{mean:.4g} ± 0"
    if abs(mean) >= 1e6:  # of networks that explode: over orders of magnitude a mean is a share of the greatest
        near = deviation < abs(mean)
        return f"{mean:.1e} ± {deviation:.1e}" if near else f"{numbers.min():.2g} to {numbers.max():.2g}"
    decimals = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{mean:z.{decimals}f} ± {deviation:.{decimals}f}"


def bounded(values: pd.Series) -> str:
    """The median of numbers of networks: a whole one is a bound, 1 the lower, any other the upper (`equivalents`).

    A mean would take bounds for numbers. So where one of the two in the middle of an even count is a bound, both stand.
    """
    numbers = values.dropna()
    if numbers.empty:
        return ""
    middle = sorted({numbers.quantile(interpolation=side) for side in ("lower", "higher")})
    if all(number % 1 for number in middle):
        return f"{np.mean(middle):.2f}"
    return " to ".join(f"{n:.2f}" if n % 1 else f"{'≤' if n == 1 else '≥'} {n:g}" for n in middle)


def spreads(table: pd.DataFrame, keys: list[str], columns: Mapping[str, str]) -> pd.DataFrame:
    """The `spread` of some columns under headings, one row for all rows of equal keys, with their number n.

    Of deep-ensemble equivalents it is the median (`bounded`). If the table has N of any setting (`growth`), the least
    of each comes first.
    """
    groups, shown = table.groupby(keys, sort=False), {}
    if "N" in table and table["N"].notna().any():
        shown["N"] = groups["N"].min().map(lambda n: f"{n:.3g}" if n == n else "")
    shown |= {heading: groups[c].agg(bounded if c == "equivalent" else spread) for c, heading in columns.items()}
    return pd.DataFrame({**shown, "n": groups.size()}).reset_index()


def need_one_kind(table: pd.DataFrame) -> None:
    """Raise UserError if rows of one label are of several sections or roles: a mean over both says nothing."""
    for column in ("section", "role"):
        if column in table:
            kinds = table.groupby(["label", "network"])[column].unique()
            for (label, _), some in kinds[kinds.map(len) > 1].items():
                raise UserError(
                    f"{label!r} has runs of several {column}s, {', '.join(map(str, some))}: choose one, "
                    f"such as runs.where({column}={some[0]!r})"
                )


def need_once(table: pd.DataFrame, keys: Iterable[str]) -> None:
    """Raise UserError if two rows have the same of these `keys` that the table has: means would count them twice."""
    keys = [key for key in keys if key in table]
    if len(twice := table[table.duplicated(keys)]):
        of = ", ".join(f"{key} {twice[key].iloc[0]}" for key in keys if pd.notna(twice[key].iloc[0]))
        raise UserError(f"there are several rows of {of}: means over seeds take one of each")


def need(table: pd.DataFrame, columns: Iterable[str], numbers: bool = False, front: Iterable[str] = ()) -> None:
    """Raise UserError for what is no table, and for columns that it lacks, that are named twice, or are no list.

    With `numbers` the columns must be numbers, and there must be one. `front` are those of FRONT without which it is
    not known which run a row is of.
    """
    if not hasattr(table, "columns"):
        raise UserError(f"a table is what runs.final, runs.history or runs.table(...) is, not {type(table).__name__}")
    if lacking := [name for name in front if name not in table]:
        raise UserError(
            f"this table has no column {lacking[0]}: take one that says which run a row is of, such as runs.final or "
            f"runs.history of tl.section or tl.train, or give it {', '.join(front)}"
        )
    if isinstance(columns, str):
        raise UserError(f"columns are a list: [{columns!r}], not {columns!r}")
    columns = list(columns)
    if twice := [name for k, name in enumerate(columns) if name in columns[:k]]:
        raise UserError(f"the column {twice[0]} is named twice")
    if unknown := [name for name in columns if name not in table]:
        raise UserError(no_such("column", str(unknown[0]), map(str, table.columns)))
    if numbers and not columns:
        raise UserError("columns are a list of one or more, not []")
    if numbers and (texts := [name for name in columns if not pd.api.types.is_numeric_dtype(table[name])]):
        raise UserError(f"the column {texts[0]} has no numbers")
