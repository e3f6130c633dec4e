"""Text encoders of OpenCLIP (BiomedCLIP among them) by the path of their weights; the package is optional."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.errors import ModelError, UsageError, reason_of
from medldm.models.text_encoder import TextEncoder

CONFIG = "open_clip_config.json"


class OpenClipText:
    """A `TextEncoder` of an OpenCLIP model.

    Parameters
    ----------
    folder : with ``open_clip_config.json``, the weights, and the tokenizer's files, as the model hub keeps them

    Raises
    ------
    UsageError
        The package ``open_clip`` is not installed; no such folder.
    ModelError
        The folder holds no model that it can load.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder)
        if not (path / CONFIG).is_file():
            raise UsageError(f"{path} is no OpenCLIP model: it holds no {CONFIG}. Name the folder of its files.")
        try:
            library: Any = importlib.import_module("open_clip")
        except ImportError as problem:
            raise UsageError("OpenCLIP models need the package open_clip_torch. Install it beside medldm.") from problem
        try:
            source = f"local-dir:{path}"
            self.model, _ = library.create_model_from_pretrained(source, device="cpu")
            self.tokenizer = library.get_tokenizer(source)
        except Exception as problem:  # whatever the library and its tokenizer meet in foreign files
            raise ModelError(f"The OpenCLIP model in {path} cannot be loaded: {reason_of(problem)}.") from problem
        self.model.eval().requires_grad_(False)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, D) vectors of length 1; longer texts are cut at the length the model takes."""
        with torch.no_grad():
            return F.normalize(self.model.encode_text(self.tokenizer(list(texts))).float(), dim=1)


def text_encoder(source: str | Path, own: TextEncoder | None = None) -> TextEncoder:
    """A text encoder by name or path.

    Parameters
    ----------
    source : ``"own"``, or the folder of an OpenCLIP model
    own : what ``"own"`` means

    Raises
    ------
    UsageError, ModelError
    """
    if str(source) == "own":
        if own is None:
            raise ModelError("This model has no text encoder of its own. Train one: `medldm train generator`.")
        return own
    return OpenClipText(source)
