"""What a widget says: the plan, a model card, a run as text to copy."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from medldm.data.volume import Volume
from medldm.modality import DEFAULT, MODALITIES
from medldm.settings import make
from medldm.tasks import TASKS, Need
from medldm.zoo import Card, best, card, cards
from napari_medldm.layers import SYNTHETIC

ROWS = {"uncertainty": "Uncertainty layers", "mask": "Region", "volume": "Series"}  # what is no setting of a task


PROMPT = "prompt"  # a setting that the command line takes without a flag, where a task needs no scan


def for_dock(message: str) -> str:
    """A message of the library in the words of the dock: names of rows and tabs for options and commands.

    Parameters
    ----------
    message : ``"taken for MR; say --slice-thickness 3"``

    Returns
    -------
    ``'taken for MR; choose "Slice thickness" 3'``
    """
    message = re.sub(r" \(`medldm models`\)", "", message)
    message = re.sub(r"`(medldm train[^`]*)`", r"\1 (a command for a terminal)", message)
    message = re.sub(r"(?:[Nn]ame it|[Gg]ive one of your own) with --model [A-Z]+", _from_file, message)
    message = re.sub(r"`medldm ([a-z-]+)[^`]*`", lambda command: f'"{_title_of_task(command[1])}"', message)
    message = re.sub(r"\b([Ss])ay (?=`?--)", lambda say: "Choose " if say[1] == "S" else "choose ", message)
    message = re.sub(r"`?--([a-z-]+)(?: PATH)?`?", lambda flag: f'"{_title_of_row(flag[1])}"', message)
    return message.replace("of p99.5", "of the brightest tissue")


def _from_file(advice: re.Match[str]) -> str:
    choose = "Choose" if advice[0][0].isupper() else "choose"
    what = "it" if advice[0].lower().startswith("name it") else "one of your own"
    return f'{choose} {what} with "Model from a file..."'


def _title_of_task(verb: str) -> str:
    return TASKS[verb].labels.title if verb in TASKS else verb.replace("-", " ").capitalize()


def _title_of_row(flag: str) -> str:
    name = flag.replace("-", "_")
    for task in TASKS.values():
        for knob in fields(task.settings):
            if knob.name == name and knob.metadata.get("title"):
                return str(knob.metadata["title"])
    return ROWS.get(flag, flag.replace("-", " ").capitalize())


def duration(seconds: float) -> str:
    """``"8 s"``, ``"2 min 5 s"``."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def intent(verb: str, scan: Volume, options: Mapping[str, Any]) -> str:
    """What a verb other than restore will do with a scan, from geometry and options alone.

    Parameters
    ----------
    verb : as on the command line
    scan : geometry; voxels are not looked at
    options : that differ from the defaults

    Raises
    ------
    MedldmError
        Options that cannot be meant.
    """
    task = TASKS[verb]
    settings = make(task.settings, options)
    return task.intent(scan, settings) if task.intent else str(settings.__doc__)


def describe(name: str, modality: str = DEFAULT.name, verb: str = "") -> str:
    """A model card in a few lines: what it is, licence, range, limits.

    Raises
    ------
    ModelError
        No such model.
    """
    if name == "auto" and verb in TASKS and Need.SCAN not in TASKS[verb].needs:
        generators = ", ".join(one.name for one in cards() if one.role == "generator")
        return f"Chosen by what is asked for, among the models that draw: {generators or 'none is shipped'}."
    model_card: Card = best(modality, verb=verb) if name == "auto" else card(name)
    low, high = model_card.spacing_mm
    limits = f"Limits: {'; '.join(model_card.limits[:2])}" if model_card.limits else ""
    return (
        f"{model_card.title} ({model_card.name}). {model_card.modality.upper()}, {model_card.spatial_dims}D, "
        f"voxels {low:g} to {high:g} mm. Licence of the weights: {model_card.licence}. {for_dock(limits)}"
    ).strip()


def unfit(name: str, modality: str, scan: Volume, verb: str = "") -> str:
    """Why a scan lies outside of what a model has seen; empty when it does not."""
    model_card = best(modality, verb=verb) if name == "auto" else card(name)
    low, high = model_card.spacing_mm
    outside = [mm for mm in scan.spacing if not low * 0.99 <= mm <= high * 1.01]
    if not outside:
        return ""
    return f"Voxels of {outside[0]:.2f} mm lie outside of what {model_card.name} has seen ({low:g} to {high:g} mm)."


def unit_of(modality: str) -> str:
    """Unit of the values of a modality; empty where they have none.

    Parameters
    ----------
    modality : name in `medldm.modality.MODALITIES`
    """
    kind = MODALITIES.get(modality)
    return kind.unit if kind is not None else ""


def place(one: Any, layer: Any) -> str:
    """A place with a wide interval: ``"slice 12, row 40, column 33: 90 % interval \u00b152 HU"``."""
    z, y, x = one.index
    records = layer.metadata.get("provenance") or []
    unit = unit_of((records[-1].modality if records else "") or "")
    where = f"slice {z}, row {y}, column {x}"
    return f"{where}: 90 % interval \u00b1{one.half_width:.3g}{f' {unit}' if unit else ''}"


def legend(outcome: Any) -> str:
    """What the orange overlay of a result means, or that all of it was drawn; empty where everything was measured."""
    for data, arguments, kind in outcome.layers:
        if arguments["metadata"].get(SYNTHETIC):
            return "Synthetic, of nobody: every voxel was drawn, none was measured."
        if kind == "labels":
            marked = data.any(axis=(1, 2))
            whole = (data.all(axis=(1, 2))).sum()
            if whole:
                return f"Orange: {int(whole)} slices that nobody measured."
            return f"Orange: {int((data > 0).sum()):,} voxels in {int(marked.sum())} slices that nobody measured."
    return ""


def position(scan: Any, index: Any) -> str:
    """A voxel, where it lies in the patient, and its value.

    Parameters
    ----------
    scan : `layers.Snapshot`
    index : (3,) voxel (z, y, x)
    """
    z, y, x = (scan.to_world @ [*index, 1.0])[:3]
    said = [
        f"{'LR'[int(x > 0)]} {abs(x):.1f}",
        f"{'PA'[int(y > 0)]} {abs(y):.1f}",
        f"{'IS'[int(z > 0)]} {abs(z):.1f} mm",
    ]
    where = f"voxel {int(index[0])}, {int(index[1])}, {int(index[2])} (z, y, x) \u00b7 {', '.join(said)}"
    inside = all(0 <= i < n for i, n in zip(index, scan.shape, strict=True))
    if not inside:
        return f"outside of the scan \u00b7 {', '.join(said)}"
    value = np.asarray(scan.data[(*scan.current, *(int(i) for i in index))])
    return f"{where} \u00b7 {float(value):.6g}"


def command_line(
    verb: str, options: Mapping[str, Any], path: str, *, mask: str | None = None, volumes: Sequence[int] = ()
) -> str:
    """A run as a command, or as one for each volume.

    Parameters
    ----------
    verb : as on the command line
    options : that differ from the defaults
    path : of the scan; empty when it lies in no file
    mask : file of the mask; None for verbs without one
    volumes : which ones of a 4D file; none for a file of one volume
    """
    said = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            said += [flag if value else f"--no-{flag[2:]}"]
        elif Need.SCAN in TASKS[verb].needs or name != PROMPT:
            said += [flag, ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)]
    if Need.SCAN not in TASKS[verb].needs:
        prompt = [options.get(PROMPT, "")] if PROMPT in {knob.name for knob in fields(TASKS[verb].settings)} else []
        return shlex.join(["medldm", verb, *prompt, "SYNTHETIC.nii.gz", *said])
    lines = []
    for number in volumes or (None,):
        out = "RESTORED.nii.gz" if len(volumes) < 2 else f"RESTORED-{number}.nii.gz"
        line = ["medldm", verb, path or "SCAN.nii.gz", out, *(["--mask", mask] if mask else [])]
        lines.append(shlex.join([*line, *([] if number is None else ["--volume", str(number)]), *said]))
    return "\n".join(lines)


def python(
    verb: str, options: Mapping[str, Any], path: str, *, mask: str | None = None, volumes: Sequence[int] = ()
) -> str:
    """A run as Python; see `command_line`."""
    more = [f"medldm.read({mask!r})"] if mask else []
    more += [f"{name}={value!r}" for name, value in options.items()]
    function = f"medldm.{verb.replace('-', '_')}"
    if Need.SCAN not in TASKS[verb].needs:
        return f'import medldm\n\nscan = {function}({", ".join(more)})\nmedldm.write(scan, "SYNTHETIC.nii.gz")\n'
    call = f"{function}({', '.join(['scan', *more])})"
    source = repr(path or "SCAN.nii.gz")
    if len(volumes) > 1:
        return (
            f"import medldm\n\nfor number in {list(volumes)}:\n"
            f"    scan = medldm.read({source}, volume_index=number)\n    restored = {call}\n"
            '    medldm.write(restored, f"RESTORED-{number}.nii.gz")\n'
        )
    index = f", volume_index={volumes[0]}" if volumes else ""
    return (
        f"import medldm\n\nscan = medldm.read({source}{index})\n"
        f'restored = {call}\nmedldm.write(restored, "RESTORED.nii.gz")\n'
    )


def command_of(scan: Any, verb: str, options: Mapping[str, Any], mask: str | None, volumes: Sequence[int]) -> str:
    """A run on a layer as a command; see `command_line`.

    Parameters
    ----------
    scan : `layers.Snapshot`; None for tasks that need none
    verb, options, mask, volumes : as of `command_line`
    """
    if scan is None:
        return command_line(verb, options, "")
    path = scan.file
    return command_line(verb, scan.said(verb, path) | dict(options), path, mask=mask, volumes=volumes)


def python_of(scan: Any, verb: str, options: Mapping[str, Any], mask: str | None, volumes: Sequence[int]) -> str:
    """A run on a layer as Python; see `command_of`."""
    if scan is None:
        return python(verb, options, "")
    path = scan.file
    return python(verb, scan.said(verb, path) | dict(options), path, mask=mask, volumes=volumes)
