"""Samples of a generator against real scans, and real scans against real scans."""

from medldm.benchmark.generation.run import COUNT, run_generation

__all__ = ["COUNT", "run_generation"]
