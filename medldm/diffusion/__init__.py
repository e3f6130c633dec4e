"""The flow: its path, its training loss, and its samplers."""

from medldm.diffusion.objective import draw_times, flow_loss, interpolate
from medldm.diffusion.samplers import SAMPLERS, Sampler, register

__all__ = ["SAMPLERS", "Sampler", "draw_times", "flow_loss", "interpolate", "register"]
