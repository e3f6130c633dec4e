"""Fixtures only; what they draw lives in phantoms.py."""

import phantoms
import pytest


@pytest.fixture
def phantom():
    """A brain-like volume, 1 mm, upright."""
    return phantoms.phantom()


@pytest.fixture
def oblique_phantom():
    """A brain-like volume with thick slices on an oblique grid."""
    return phantoms.oblique_phantom()
