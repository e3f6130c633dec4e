"""Degrade, restore with medldm and with baselines, score: the numbers of README and model cards come from here."""

from medldm.benchmark.run import run

__all__ = ["run"]
