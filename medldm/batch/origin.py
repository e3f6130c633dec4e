"""Where a case comes from, as its record says it."""

from __future__ import annotations

from typing import Any

from medldm.batch.ledger import Record
from medldm.errors import OutputError
from medldm.io.discovery import Case


def origin(case: Case) -> dict[str, Any]:
    """Where a case comes from, so that a rerun finds it again; absolute, since a rerun may start anywhere."""
    place = {"place": case.place.as_posix(), "count": len(case.files)}
    if case.keep is not None:
        member = case.files[0].relative_to(case.keep.folder).as_posix()
        return {"root": str(case.keep.archive.absolute()), "files": [], "member": member, **place}
    return {"root": str(case.source.absolute()), "files": [str(path.absolute()) for path in case.files[:1]], **place}


def check_origin(record: Record, case: Case, digest: str) -> None:
    """Refuse to replace the result of another scan that only has the same name.

    Parameters
    ----------
    record : of the result that lies there
    case, digest : scan that is to be restored, and SHA-256 of its files

    Raises
    ------
    OutputError
    """
    told, ours = record.read().get("input"), origin(case)
    if not isinstance(told, dict) or told.get("sha256") == digest:
        return
    name = "files" if told.get("files") else "member"
    if told.get(name) and told[name] != ours.get(name):
        theirs = told[name][0] if name == "files" else f"{told[name]} in {told.get('root')}"
        raise OutputError(
            f"{record.image} is the result of {theirs}, not of {case.source}. Say --overwrite, or choose another OUT."
        )
