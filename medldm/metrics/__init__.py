"""How good is a restoration? Images against a reference, sets of images against sets, CT noise and edges."""

from medldm.metrics.generative import frechet_distance, inception_score, kernel_distance
from medldm.metrics.images import (
    WINDOW,
    bias_by_intensity,
    detail_correlation,
    detail_energy_ratio,
    feature_distance,
    fine_detail,
    mae,
    nmi,
    psnr,
    ssim,
)
from medldm.metrics.multiscale import ms_ssim
from medldm.metrics.texture import edge_width, noise_frequency, noise_spectrum, roughness_jump

__all__ = [
    "WINDOW",
    "bias_by_intensity",
    "detail_correlation",
    "detail_energy_ratio",
    "edge_width",
    "feature_distance",
    "fine_detail",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "mae",
    "ms_ssim",
    "nmi",
    "noise_frequency",
    "noise_spectrum",
    "psnr",
    "roughness_jump",
    "ssim",
]
