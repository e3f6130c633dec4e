"""How mkdocstrings is to read medldm: our docstrings give shape and unit where others repeat the type.

`voxels : (X, Y, Z), HU` would end up under *type*, as code, with no description. The signature has the type, so the
words after the colon become the description. And a verb has the name of its file (`medldm.tasks.denoise` is both): what
users call is put where they call it, `medldm.denoise`.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

from medldm.tasks import TASKS

FUNCTIONS = {name.replace("-", "_") for name in TASKS}
SETTINGS = {task.settings.__name__ for task in TASKS.values()}
SECTION = re.compile(r"^(Parameters|Returns|Raises|Attributes)\n-+\n((?:.+\n?|\n(?! *\w+\n-+))*)", re.M)


class Prose(griffe.Extension):
    """Words become descriptions; verbs are found under the name that users know."""

    def __init__(self) -> None:
        self.verbs: dict[str, griffe.Function] = {}
        self.settings: dict[str, griffe.Class] = {}

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """A function's words, and its return."""
        if func.docstring:
            func.docstring.value = named(func.docstring.value, str(func.returns or ""))
        if func.name in FUNCTIONS and func.parent is not None and func.parent.path == "medldm.tasks":
            self.verbs[func.name] = func

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """A class's words."""
        if cls.docstring:
            cls.docstring.value = named(cls.docstring.value, "")
        if cls.name in SETTINGS:
            self.settings[cls.name] = cls

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """The verbs in the package, their settings in `medldm.settings`."""
        for name, verb in self.verbs.items():
            if pkg.name == "medldm":
                pkg.set_member(name, verb)
        for name, settings in self.settings.items():
            if pkg.name == "medldm":
                pkg["settings"].set_member(name, settings)


def named(docstring: str, returned: str) -> str:
    """A docstring whose words stand below the names, for a parser that takes what follows a colon for a type.

    Parameters
    ----------
    docstring : in numpydoc, dedented
    returned : type of what is returned, as in the signature
    """
    return SECTION.sub(lambda result: section(result, returned), docstring)


def section(result: re.Match[str], returned: str) -> str:
    """One section, its items rewritten."""
    title, body = result[1], result[2]
    lines = []
    for line in body.splitlines():
        named = re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*) : (.+)", line)
        if line.startswith(" ") or not line or title == "Raises":
            lines.append(line)
        elif title == "Returns":
            lines += [returned or "Any", f"    {line}"] if not named or returned == "" else [line]
        elif named:
            for name in named[1].split(", "):
                lines += [name, f"    {named[2]}"]
        else:
            lines.append(line)
    return f"{title}\n{'-' * len(title)}\n" + "\n".join(lines) + "\n"
