"""Degrade, restore with us and with the rivals, score: the numbers of README and model cards come from here."""

from medldm.benchmark.run import run

__all__ = ["run"]
