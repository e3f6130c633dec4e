"""How far a scan lies from the nearest of those a model was trained on, in a few named numbers; NumPy alone.

Training writes it on a card where SciPy may not be installed; `medldm.qc.ood` finds the numbers, and warns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medldm.data.volume import Voxels

GROUPS = {"intensity": "grey values", "texture": "texture", "anatomy": "anatomy"}
MARGIN = 1.25  # between the farthest validation scan and the limit: other scanners will come
REFERENCES = 24  # training scans kept on the card


def fit(train: Sequence[Mapping[str, Any]], chosen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a card keeps: training scans that stand for all, how the numbers spread, and limits.

    Parameters
    ----------
    train : from `medldm.qc.ood.describe`, of the scans a model was trained on
    chosen : from `medldm.qc.ood.describe`, of the validation scans that choose the limits

    Returns
    -------
    JSON-ready, see `medldm.qc.ood.check`
    """
    card: dict[str, Any] = {}
    for group in GROUPS:
        if not any(group in scan for scan in train):
            continue  # slabs of a few slices have no outline
        names = list(next(scan[group] for scan in train if group in scan))
        table = np.array([[scan[group][name] for name in names] for scan in train if group in scan])
        others = np.array([[scan[group][name] for name in names] for scan in chosen if group in scan])
        spread = np.maximum(table.std(0), 0.02)
        kept = table[far_apart(table / spread, REFERENCES)]
        # Leaving one out shows how lonely a scan of the same kind may be; validation scans show it for new subjects.
        different = [kept[(kept != row).any(1)] for row in table]
        alone = [nearest(row, rest, spread) for row, rest in zip(table, different, strict=True) if len(rest)]
        if not alone:
            continue  # one scan, or one scan many times, has no neighbours to learn distances from
        seen = [nearest(row, kept, spread) for row in others]
        card[group] = {
            "names": names,
            "spread": [round(float(value), 4) for value in spread],
            "range": [[round(float(f), 3) for f in ends] for ends in zip(table.min(0), table.max(0), strict=True)],
            "references": [[round(float(value), 3) for value in row] for row in kept],
            "limit": round(max(MARGIN * max(seen, default=0.0), float(np.percentile(alone, 95))), 3),
        }
    return card


def extended(card: Mapping[str, Any], train: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a card keeps after its model was trained on: its scans, and the new ones beside them; the same limits.

    Parameters
    ----------
    card : from `fit`, of the model that training started from
    train : from `medldm.qc.ood.describe`, of the scans it went on with
    """
    merged: dict[str, Any] = {}
    for group, kept in card.items():
        rows = [[scan[group][name] for name in kept["names"]] for scan in train if group in scan and group in GROUPS]
        if group not in GROUPS or not rows:
            merged |= {group: kept} if group in GROUPS else {}
            continue
        table = np.array(rows)
        new = table[far_apart(table / np.array(kept["spread"]), REFERENCES)]
        ends = zip(kept["range"], table.min(0), table.max(0), strict=True)
        merged[group] = {
            **kept,
            "range": [[round(min(low, float(a)), 3), round(max(high, float(b)), 3)] for (low, high), a, b in ends],
            "references": [*kept["references"], *([round(float(value), 3) for value in row] for row in new)],
        }
    return merged


def distances(scan: Mapping[str, Mapping[str, float]], card: Mapping[str, Any]) -> dict[str, float]:
    """How far a scan lies from the nearest training scan, as a multiple of the limit, by group.

    Parameters
    ----------
    scan : from `medldm.qc.ood.describe`
    card : from `fit`
    """
    ratios = {}
    for group, kept in card.items():
        if group in GROUPS and group in scan:
            row = np.array([scan[group][name] for name in kept["names"]])
            far = nearest(row, np.array(kept["references"]), np.array(kept["spread"]))
            ratios[group] = far / kept["limit"]
    return ratios


def nearest(row: Voxels, references: Voxels, spread: Voxels) -> float:
    """Root mean square distance to the nearest reference, in spreads."""
    return float(np.sqrt(np.square((references - row) / spread).mean(1)).min())


def far_apart(rows: Voxels, count: int) -> list[int]:
    """Rows that stand for all: each next one is the farthest from those chosen (Gonzalez 1985)."""
    chosen = [int(np.square(rows - rows.mean(0)).sum(1).argmin())]
    distance = np.square(rows - rows[chosen[0]]).sum(1)
    while len(chosen) < min(count, len(rows)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(rows - rows[chosen[-1]]).sum(1))
    return sorted(set(chosen))
