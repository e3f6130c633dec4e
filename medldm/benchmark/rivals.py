"""Who competes: doing nothing, interpolation, NLM, TV, the supervised U-Net, and we; all on the same arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from medldm.benchmark.protocol import Trial
from medldm.errors import ModelError
from medldm.noise_level import estimate_noise
from medldm.resample import resample_to
from medldm.volume import Voxels

Method = Callable[[Trial], "Voxels | None"]


def nothing(trial: Trial) -> Voxels | None:
    """The measurement as it is; on a coarser grid nearest neighbour, holes stay as the mean of their surroundings."""
    if trial.measured.shape != trial.reference.shape:
        return resample_to(trial.measured, reference_affine(trial), trial.reference.shape, "nearest")
    return linear(trial) if trial.row.verb in ("fill-slices", "inpaint") else np.asarray(trial.measured.voxels)


def linear(trial: Trial) -> Voxels | None:
    """Linear interpolation; for regions the smooth fill of the pyramid."""
    if trial.row.verb == "denoise":
        return None
    if trial.row.verb in ("fill-slices", "inpaint"):
        import torch

        assert trial.degradation is not None
        seen: Voxels = trial.degradation.observe(torch.from_numpy(np.array(trial.measured.voxels))).y.numpy()
        return seen
    return _filled(resample_to(trial.measured, reference_affine(trial), trial.reference.shape, "linear"))


def cubic(trial: Trial) -> Voxels | None:
    """Cubic B-spline interpolation."""
    if trial.row.verb in ("denoise", "inpaint"):
        return None
    if trial.row.verb == "fill-slices":
        from scipy.interpolate import CubicSpline

        axis, missing = trial.facts["axis"], set(trial.facts["missing"])
        kept = [k for k in range(trial.measured.shape[axis]) if k not in missing]
        at = np.clip(np.arange(trial.measured.shape[axis]), kept[0], kept[-1])
        filled: Voxels = CubicSpline(kept, np.take(trial.measured.voxels, kept, axis=axis), axis=axis)(at).astype(
            np.float32
        )
        return filled
    return _filled(resample_to(trial.measured, reference_affine(trial), trial.reference.shape, "bspline"))


def nlm(trial: Trial) -> Voxels | None:
    """Non-local means (Buades et al., CVPR 2005) of scikit-image, h = 0.8 sigma as its documentation advises."""
    if trial.row.verb != "denoise":
        return None
    sigma = level_of(trial)
    image = np.asarray(trial.measured.voxels)
    found: Voxels = denoise_nl_means(image, patch_size=3, patch_distance=4, h=0.8 * sigma, sigma=sigma, fast_mode=True)
    return found.astype(np.float32)


def tv(trial: Trial) -> Voxels | None:
    """Total variation (Chambolle 2004) of scikit-image, its weight proportional to the noise."""
    if trial.row.verb != "denoise":
        return None
    found: Voxels = denoise_tv_chambolle(
        np.asarray(trial.measured.voxels), weight=0.9 * level_of(trial), max_num_iter=60
    )
    return found.astype(np.float32)


def model(name: str, **options: Any) -> Method:
    """A model of ours through the public verbs.

    Parameters
    ----------
    name : model card, or ``"auto"``
    **options : fidelity and other settings
    """

    def restore(trial: Trial) -> Voxels:
        from medldm import tasks

        settings = {"model": name, **options}
        scan, facts = trial.measured, trial.facts
        if trial.row.verb == "denoise":
            done = tasks.denoise(scan, facts.get("noise"), **settings)
        elif trial.row.verb == "super-resolve":
            done = tasks.super_resolve(scan, facts["spacing"], noise=facts.get("noise"), axis=facts["axis"], **settings)
        elif trial.row.verb == "fill-slices":
            done = tasks.fill_slices(scan, facts["missing"], axis=facts["axis"], **settings)
        else:
            done = tasks.inpaint(scan, facts["mask"], **settings)
        return np.asarray(done.voxels, dtype=np.float32)

    return restore


def methods(names: tuple[str, ...] | None = None) -> tuple[dict[str, Method], dict[str, str]]:
    """The methods that run on this machine, and those that do not, with the reason.

    Parameters
    ----------
    names : only these

    Raises
    ------
    ModelError
        A name that is no method.
    """
    from medldm.zoo import best, cards

    every: dict[str, Method] = {
        "nothing": nothing,
        "linear": linear,
        "cubic": cubic,
        "nlm": nlm,
        "tv": tv,
    }
    absent: dict[str, str] = {}
    rivals = [each for each in cards() if each.role == "rival" and each.modality == "mr"]
    if rivals:
        every["unet"] = model(rivals[0].name)
    else:
        absent["unet"] = "no rival is shipped"
    try:
        ours = best("mr").name
        every |= {"medldm": model(ours), "medldm-sharp": model(ours, fidelity=0.0)}
    except ModelError as problem:
        absent |= {"medldm": str(problem), "medldm-sharp": str(problem)}
    for name in names or ():
        if name not in every and name not in absent:
            raise ModelError(f"There is no method {name!r}; there are {', '.join([*every, *absent])}.")
    chosen = {name: method for name, method in every.items() if names is None or name in names}
    return chosen, absent


def level_of(trial: Trial) -> float:
    """Noise level that a method is told, or its estimate, scaled intensity."""
    given = trial.facts.get("noise")
    return float(given) if given else max(estimate_noise(trial.measured.voxels, trial.measured.spacing).sigma, 1e-4)


def reference_affine(trial: Trial) -> Any:
    """(4, 4) of the grid of the reference."""
    from medldm.resample import field_of_view_affine

    return field_of_view_affine(trial.measured.affine, trial.measured.shape, trial.reference.shape)


def _filled(image: Voxels) -> Voxels:
    """Voxels outside the slice centres' span repeat the nearest one, as every viewer shows them."""
    if not np.isnan(image).any():
        return image
    nearest = ndimage.distance_transform_edt(np.isnan(image), return_distances=False, return_indices=True)
    repeated: Voxels = image[tuple(nearest)]
    return repeated
