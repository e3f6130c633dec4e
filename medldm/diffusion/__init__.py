"""Rectified flow: objective and samplers. Networks arrive as functions."""

from medldm.diffusion.objective import draw_times, flow_loss, interpolate
from medldm.diffusion.samplers import sample_flow

__all__ = ["draw_times", "flow_loss", "interpolate", "sample_flow"]
