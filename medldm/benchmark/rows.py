"""The rows of the protocol, as the degradations name them. Core rows make the README's table, all the full run."""

from __future__ import annotations

from collections.abc import Sequence

from medldm.degradations import DEGRADATIONS, Row
from medldm.errors import UsageError
from medldm.modality import CT, MODALITIES


def all_rows() -> list[Row]:
    """Every row: core rows first, then by modality, lesions and drawn objects last, each in the order of the verbs."""
    rows = [row for kind in DEGRADATIONS.values() for row in kind.rows()]
    verbs, modalities = list(dict.fromkeys(row.verb for row in rows)), list(MODALITIES)
    return sorted(
        rows,
        key=lambda row: (
            not row.core,
            modalities.index(row.modality),
            row.lesions,
            row.drawn,
            verbs.index(row.verb),
        ),
    )


def groups() -> dict[str, list[str]]:
    """Names of rows by the name of their group, as ``--tasks`` takes it."""
    rows = all_rows()
    return {
        "core": [row.name for row in rows if row.core],
        "all": [row.name for row in rows],
        "lesions": [row.name for row in rows if row.lesions],
        CT.name: [row.name for row in rows if row.modality == CT.name],
    }


def chosen_rows(tasks: Sequence[str] | None, quick: bool) -> list[Row]:
    """The rows that are asked for: by name or group, each once; the core rows by default.

    Raises
    ------
    UsageError
    """
    known, members = {row.name: row for row in all_rows()}, groups()
    names = [name for task in tasks or ("core",) for name in members.get(task, (task,))]
    for name in names:
        if name not in known:
            raise UsageError(f"There is no row {name!r}; there are {', '.join(members)} and {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names) if tasks or not quick or known[name].quick]
