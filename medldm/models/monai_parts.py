"""What medldm takes from MONAI, and the only module that imports it."""

from __future__ import annotations

import getpass
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _user_has_a_name() -> Iterator[None]:
    """MONAI asks for the user's name when it is imported, and an unknown uid (`docker run -u`) has none."""
    asked = getpass.getuser
    try:
        asked()
    except (KeyError, OSError, ImportError):
        getpass.getuser = lambda: f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown"
    try:
        yield
    finally:
        getpass.getuser = asked


@contextmanager
def _matplotlib_may_fail() -> Iterator[None]:
    """MONAI loads pyplot where it is installed, and pyplot needs a folder to write to; medldm needs neither."""
    logger = logging.getLogger("matplotlib")
    before, hidden = logger.level, False
    logger.setLevel(logging.ERROR)  # it advises everybody without a home to set MPLCONFIGDIR
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError:
        pass
    except Exception:  # no folder at all: to MONAI it is not installed
        hidden = "matplotlib" not in sys.modules
    finally:
        logger.setLevel(before)
    if hidden:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["matplotlib"]


with _user_has_a_name(), _matplotlib_may_fail():
    import monai  # noqa: F401

from monai.inferers import SlidingWindowInferer
from monai.losses import PatchAdversarialLoss
from monai.networks.blocks import ResidualUnit
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet, PatchDiscriminator, UNet
from monai.networks.utils import pixelshuffle, pixelunshuffle

__all__ = [
    "AutoencoderKL",
    "DiffusionModelUNet",
    "PatchAdversarialLoss",
    "PatchDiscriminator",
    "ResidualUnit",
    "SlidingWindowInferer",
    "UNet",
    "pixelshuffle",
    "pixelunshuffle",
]
