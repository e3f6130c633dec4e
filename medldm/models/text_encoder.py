"""Words and volumes in one space: a small text encoder of our own, and an encoder of latents beside it.

Trained against each other (CLIP: Radford et al., "Learning transferable visual models from natural language
supervision", ICML 2021), they say how well a scan fits a description.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medldm.models.generator import GROUPS, GeneratorConfig

BUCKETS = 4096  # n-grams of characters are hashed into so many rows
WIDTH = 48  # of a row
SPACE = 64  # dimensions that words and volumes share
NGRAMS = (1, 2, 3, 4)  # characters; whole words besides


class TextEncoder(Protocol):
    """What turns words into vectors; ours, or one of a larger model."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, D) vectors of length 1.

        Parameters
        ----------
        texts : as people write them
        """


def ngrams(text: str) -> list[int]:
    """Rows of the n-grams of a text: its words, and their runs of 1 to 4 characters, hashed.

    Numbers are one word each: 34 and 43 share no n-gram that means anything.

    Parameters
    ----------
    text : as people write it
    """
    pieces = []
    for word in re.findall(r"\d+|[^\W\d_]+\d?[^\W\d_]*", text.lower()):
        pieces.append(f"={word}")
        if word.isdigit():
            pieces.append(f"decade {int(word) // 10}")
            continue
        edged = f"<{word}>"
        pieces += [edged[at : at + n] for n in NGRAMS for at in range(len(edged) - n + 1)]
    hashed = [int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=4).digest(), "big") for piece in pieces]
    return [number % BUCKETS for number in hashed] or [0]


class HashedTextEncoder(nn.Module):
    """A text encoder of under a megabyte: the mean of its n-grams' rows, and two layers on it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.EmbeddingBag(BUCKETS, WIDTH, mode="mean")
        self.layers = nn.Sequential(nn.Linear(WIDTH, SPACE), nn.SiLU(), nn.Linear(SPACE, SPACE))

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(N, SPACE) vectors of length 1."""
        rows = [ngrams(text) for text in texts]
        device = self.rows.weight.device
        flat = torch.tensor([number for row in rows for number in row], device=device)
        starts = torch.tensor([0, *[len(row) for row in rows[:-1]]], device=device).cumsum(0)
        return F.normalize(self.layers(self.rows(flat, starts)), dim=1)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """As of `TextEncoder`."""
        with torch.no_grad():
            vectors: Tensor = self(texts)
        return vectors


class LatentEncoder(nn.Module):
    """A vector of a scan, from its normalised latent.

    Parameters
    ----------
    config : of the generator
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(config.latent_channels, 32, 3, padding=1),
            nn.GroupNorm(GROUPS, 32),
            nn.SiLU(),
            nn.Conv3d(32, 64, 3, stride=2, padding=1),
            nn.GroupNorm(GROUPS, 64),
            nn.SiLU(),
            nn.Conv3d(64, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool3d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(512, SPACE),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """(B, C, ...) normalised latent to (B, SPACE) vectors of length 1."""
        return F.normalize(self.layers(latent), dim=1)


class Captions(nn.Module):
    """Both encoders and the temperature that their likeness is divided by.

    Parameters
    ----------
    config : of the generator
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.text, self.image = HashedTextEncoder(), LatentEncoder(config)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, latent: Tensor, texts: Sequence[str]) -> Tensor:
        """(B, N) likeness of scans and texts, the cosine times a learned scale."""
        likeness: Tensor = self.log_scale.clamp(max=4.6).exp() * self.image(latent) @ self.text(texts).T
        return likeness
