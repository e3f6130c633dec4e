"""Networks from MONAI blocks, 2D and 3D by `spatial_dims`; and, when called, the list of model cards.

``medldm.models()`` is the public question "what can you do"; the room of the same name holds the networks. Both
are wanted under one name, so this module answers a call. Nothing here imports torch until a submodule is opened.
"""

from __future__ import annotations

import sys
from types import ModuleType

from medldm.zoo import Card, cards


class _Room(ModuleType):
    def __call__(self) -> list[Card]:
        """All shipped model cards; see `medldm.zoo.cards`."""
        return cards()


sys.modules[__name__].__class__ = _Room
