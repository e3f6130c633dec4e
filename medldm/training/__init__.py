"""Train the networks: on a laptop's CPU for hours, or on a GPU for minutes, with the same command."""

from medldm.training.run import train

__all__ = ["train"]
