"""Every refusal in the package is a sentence of ours: it ends as one does, and quotes no foreign exception."""

import ast
import gzip
import json
import re
import zipfile
from pathlib import Path

import phantoms
import pytest

import medldm
from medldm import errors
from medldm.errors import InputError, MedldmError, ModelError, UsageError, reason_of, traced
from medldm.io.archives import unpack
from medldm.io.discovery import find_cases
from medldm.settings import Denoise, make

ROOT = Path(medldm.__file__).parent
KINDS = {name for name, var in vars(errors).items() if isinstance(var, type) and issubclass(var, MedldmError)}


# The exception itself, or its text in pieces; its strerror and what our own functions make of it are fine.
QUOTED = r"(?:str\(|repr\()?{}\b(?!\.strerror)"


def _ours(handler):
    """Whether what is caught holds words of ours: a refusal, or a private exception of the module."""
    kind = handler.type.id if isinstance(handler.type, ast.Name) else ""
    return kind in KINDS or kind == "MedldmError" or kind.startswith("_")


def refusals():
    """(file:line, words, names of caught exceptions) of every ``raise SomeMedldmError(words)``."""
    for path in sorted(ROOT.rglob("*.py")):
        whole = list(ast.walk(ast.parse(path.read_text())))
        caught = {node.name for node in whole if isinstance(node, ast.ExceptHandler) and node.name and not _ours(node)}
        for node in whole:
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                name = node.exc.func.id if isinstance(node.exc.func, ast.Name) else ""
                if name in KINDS:
                    yield f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", node.exc.args[0], caught


def test_no_refusal_quotes_a_foreign_exception():
    """What a library says means little to a user, and may quote a header; -v prints it."""
    values = [
        (where, ast.unparse(node.value), caught)
        for where, refusal, caught in refusals()
        for node in ast.walk(refusal)
        if isinstance(node, ast.FormattedValue)
    ]
    assert len(values) > 200
    quoting = [where for where, value, caught in values if any(re.match(QUOTED.format(name), value) for name in caught)]
    # There a refusal of ours stands in another one, or a reason that was put into words.
    assert [place for place in quoting if not place.startswith("cli/")] == []


def test_every_refusal_ends_as_a_sentence():
    bad = []
    for where, refusal, _ in refusals():
        last = refusal.values[-1] if isinstance(refusal, ast.JoinedStr) else refusal
        if isinstance(last, ast.Constant) and not str(last.value).rstrip().endswith((".", ")", "!", "?", "`")):
            bad.append(where)
    assert bad == []


def message(kind, action):
    with pytest.raises(kind) as refusal:
        action()
    assert refusal.value.args == (str(refusal.value),)
    return str(refusal.value)


def test_an_archive_says_why_it_cannot_be_unpacked(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\x03\x04 nonsense")
    assert message(InputError, lambda: unpack(path)) == (
        f"{path} cannot be unpacked: it is truncated or damaged. Copy it again from its source."
    )
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.nii", b"x")
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of encryption, twice
        data[data.rfind(mark) + place] |= 1
    path.write_bytes(data)
    assert "it is encrypted. Unpack it yourself" in message(InputError, lambda: unpack(path))
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("notes.txt", b"x")
    assert message(InputError, lambda: find_cases(path)) == (
        f"{path} holds no NIfTI or DICOM scan. Check what is in it."
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sub-1_dseg", "a label map, by its name; rename it if it is a scan."), ("x_mask", "a mask, by its name; ")],
)
def test_what_is_left_alone_says_its_own_reason(name, expected, tmp_path, capsys):
    from medldm.cli import main

    path = phantoms.save(tmp_path / f"{name}.nii.gz", phantoms.brain((8, 8, 8)))
    assert main(["denoise", str(path), str(tmp_path / "o.nii.gz")]) == 3
    said = capsys.readouterr().err
    assert f"{path} is left alone: {expected}" in said
    assert "was measured" not in said


def test_a_declared_label_map_says_what_declares_it(tmp_path, capsys):
    from medldm.cli import main

    path = phantoms.save(tmp_path / "a.nii", phantoms.brain((8, 8, 8)), intent_code=1002)
    assert main(["denoise", str(path), str(tmp_path / "o.nii.gz")]) == 3
    assert "label map (intent_code 1002); clear that if it is a scan." in capsys.readouterr().err


def test_reasons_are_in_our_words(tmp_path):
    assert reason_of(PermissionError(13, "Permission denied", "x")) == "Permission denied"
    for content, reason in ((b"{", "line 1, column 2 is not JSON"), (b"\xff", "it is not text in UTF-8")):
        with pytest.raises(ValueError) as problem:  # noqa: PT011
            json.loads(content.decode())
        assert reason_of(problem.value) == reason
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"x" * 100)[:-9])
    with gzip.open(tmp_path / "x.gz") as file, pytest.raises(EOFError) as problem:
        file.read()
    assert reason_of(problem.value) == "it ends too early"


def test_a_model_that_cannot_be_used_says_what_to_name(tmp_path):
    from medldm.zoo import read_card

    (tmp_path / "m.json").write_text("{}")
    assert "what a card says is missing. Name" in message(ModelError, lambda: read_card(tmp_path / "m.json"))
    (tmp_path / "m.json").write_text("{")
    assert "line 1, column 2 is not JSON" in message(ModelError, lambda: read_card(tmp_path / "m.json"))


def test_an_impossible_value_is_answered_by_a_sentence():
    assert message(UsageError, lambda: make(Denoise, {"noise": "much"})) == "--noise is a number, not 'much'."


def test_a_traceback_quotes_when_asked_only():
    def broken():
        try:
            float("Muster^Zacharias")
        except ValueError as problem:
            raise InputError("The header is damaged.") from problem

    with pytest.raises(InputError) as refusal:
        broken()
    assert "Muster" not in traced(refusal.value)
    assert "ValueError: could not convert string to float: 'Muster^Zacharias'" in traced(refusal.value, quoting=True)
    assert traced(refusal.value).endswith("InputError: The header is damaged.")
