"""The thesis' printed numbers beside ours."""

from __future__ import annotations

import pandas as pd

from thesislib.experiments.scales import SCALES
from thesislib.runs.results import Results, spread


def table(results: Results, scale: str) -> pd.DataFrame:
    """One row a setting: squared distance and accuracy, thesis / ours (mean ± std over n seeds) / ratio.

    `results` are those under `sections.PUBLISHED`. Empty at scales whose setting the thesis has no numbers of.
    """
    rows = []
    for (label, group), (accuracy, distance) in zip(results.items(), SCALES[scale].published.values(), strict=True):
        ours = Results({label: group}).final
        d, a = ours["d_0"], ours["accuracy"]
        rows.append(
            {
                "setting": label, "d, thesis": distance, "d, ours": spread(d, ".1f", ".1f"),
                "ratio": round(d.mean() / distance, 3), "accuracy, thesis": accuracy,
                "accuracy, ours": spread(a, ".4f", ".4f"), "n": len(ours),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
