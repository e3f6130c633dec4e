"""The methods: doing nothing, interpolation, NLM, TV, the supervised U-Net and medldm, on the same arrays.

The knobs of NLM and TV were chosen on validation scans, by PSNR (docs/benchmarks/tune_baselines.py). Where the level is
not given they take `medldm.qc.noise`, as medldm does: scikit-image's own estimator needs a wavelet package, and is
misled by zeroed air.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.interpolate import CubicSpline
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from medldm.benchmark.optional_baselines import NEEDS, OPTIONAL, UNAVAILABLE, installed
from medldm.benchmark.protocol import Trial
from medldm.data.resample import field_of_view_affine, resample_to
from medldm.data.volume import Voxels
from medldm.errors import ModelError, UsageError
from medldm.modality import CT, MR
from medldm.qc.noise import estimate_noise
from medldm.zoo import Card, best, card, cards

NLM_PATCH, NLM_REACH = 5, 4  # voxels
# Noise standard deviations, by family of the noise.
NLM_STRENGTH = {"rician": 0.7, "gaussian": 0.7}
TV_WEIGHT = {"rician": 0.4, "gaussian": 0.7}
SAMPLES = 8  # of the method that takes their mean


@dataclass(frozen=True)
class Method:
    """One method of the benchmark.

    Parameters
    ----------
    restore : trial to (X, Y, Z) on the grid of the reference; None where the method does not apply
    weights : name and SHA-256 of the networks; empty for none
    """

    restore: Callable[[Trial], Voxels | None]
    weights: str = ""


def nothing(trial: Trial) -> Voxels | None:
    """The measurement as it is; voxels that were not measured show the nearest one that was."""
    measured = np.asarray(trial.measured.voxels)
    if trial.untouched is not None:
        return _nearest(measured, trial.untouched)
    if measured.shape != trial.reference.shape:
        return _on_grid(trial, "nearest")
    return measured


def linear(trial: Trial) -> Voxels | None:
    """Linear interpolation between slices or voxels."""
    if trial.row.verb in ("denoise", "inpaint"):
        return None
    return _seen(trial) if trial.row.verb == "fill-slices" else _on_grid(trial, "linear")


def cubic(trial: Trial) -> Voxels | None:
    """Cubic B-spline interpolation; a magnitude is never negative."""
    if trial.row.verb in ("denoise", "inpaint"):
        return None
    if trial.row.verb != "fill-slices":
        smooth = _on_grid(trial, "bspline")
        return smooth.clip(min=0) if trial.modality.magnitude else smooth
    axis, missing = trial.facts["axis"], set(trial.facts["missing"])
    measured, untouched = np.asarray(trial.measured.voxels), trial.untouched
    assert untouched is not None
    kept = [k for k in range(measured.shape[axis]) if k not in missing]
    if len(kept) < 4:
        return None
    at = np.clip(np.arange(measured.shape[axis]), kept[0], kept[-1])
    spline = CubicSpline(kept, np.take(measured, kept, axis=axis), axis=axis)(at).astype(np.float32).clip(min=0)
    # A spline passes through its knots but for rounding; measured slices are to be exact.
    filled: Voxels = np.where(untouched, measured, spline)
    return filled


def zero_filling(trial: Trial) -> Voxels | None:
    """Zero filling of k-space, what a scanner does with a small matrix; for coarse planes only."""
    return _seen(trial) if trial.row.degradation.in_planes else None


def smooth_fill(trial: Trial) -> Voxels | None:
    """A region filled smoothly from its rim (pull-push pyramid); for inpainting only."""
    return _seen(trial) if trial.row.verb == "inpaint" else None


def nlm(trial: Trial) -> Voxels | None:
    """Non-local means (Buades et al., CVPR 2005) of scikit-image."""
    if trial.row.verb != "denoise":
        return None
    sigma = level_of(trial)
    smooth: Voxels = denoise_nl_means(
        np.asarray(trial.measured.voxels), patch_size=NLM_PATCH, patch_distance=NLM_REACH,
        h=NLM_STRENGTH[trial.modality.noise.family] * sigma, sigma=sigma, fast_mode=True,
    )  # fmt: skip
    return smooth.astype(np.float32)


def tv(trial: Trial) -> Voxels | None:
    """Total variation (Chambolle, J Math Imaging Vis 20, 2004) of scikit-image."""
    if trial.row.verb != "denoise":
        return None
    weight = TV_WEIGHT[trial.modality.noise.family] * level_of(trial)
    smooth: Voxels = denoise_tv_chambolle(np.asarray(trial.measured.voxels), weight=weight, max_num_iter=200)
    return smooth.astype(np.float32)


def model(which: Card, named: str | None = None, **options: Any) -> Method:
    """A medldm model, run by the public functions.

    Parameters
    ----------
    which : its card
    named : as ``--model`` takes it, when it is not shipped
    **options : fidelity and other settings
    """

    def restore(trial: Trial) -> Voxels | None:
        from medldm import tasks

        if trial.row.modality != which.modality:
            return None
        settings: dict[str, Any] = {"model": named or which.name, **options}
        scan, facts, level = trial.stored(), trial.facts, given_level(trial)
        if trial.row.verb == "denoise":
            done = tasks.denoise(scan, level, **settings)
        elif trial.row.verb == "super-resolve":
            settings |= {key: facts[key] for key in ("slice_thickness", "slice_profile") if key in facts}
            done = tasks.super_resolve(scan, facts["spacing"], noise=level, axis=facts["axis"], **settings)
        elif trial.row.verb == "fill-slices":
            done = tasks.fill_slices(scan, facts["missing"], axis=facts["axis"], **settings)
        else:
            done = tasks.inpaint(scan, facts["mask"], **settings)
        restored = np.asarray(done.voxels, dtype=np.float32)
        scaling = trial.modality.fixed_scaling
        return restored if scaling is None else scaling.apply(restored)

    return Method(restore, f"{which.name}@{which.identity[:8]}")


CLASSICS: dict[str, Callable[[Trial], Voxels | None]] = {
    "nothing": nothing,
    "linear": linear,
    "cubic": cubic,
    "zero-filling": zero_filling,
    "smooth-fill": smooth_fill,
    "nlm": nlm,
    "tv": tv,
}


def methods(names: tuple[str, ...] | None = None) -> tuple[dict[str, Method], dict[str, str]]:
    """The methods that run on this machine, and those that do not, with the reason.

    Parameters
    ----------
    names : only these; the path of a model card is a method too (and ``-sample`` beside it, if it has a flow), so that
        weights are compared before they ship

    Raises
    ------
    UsageError
        A name that is no method.
    """
    every = {name: Method(restore) for name, restore in CLASSICS.items()}
    guests, missing = optional()
    every |= guests
    ours, absent = shipped()
    every |= ours
    absent = missing | absent
    chosen: dict[str, Method] = {}
    for name in names or (*every, *absent):
        if name in every:
            chosen[name] = every[name]
        elif name in absent:
            continue
        elif Path(name).exists():
            chosen |= own(name)
        else:
            known = ", ".join([*every, *absent])
            raise UsageError(f"There is no method {name!r}; there are {known}, or the path of a model card.")
    return chosen, {name: reason for name, reason in absent.items() if names is None or name in names}


def optional() -> tuple[dict[str, Method], dict[str, str]]:
    """Baselines of other packages, and those whose package is not installed, with the reason."""
    installed_methods: dict[str, Method] = {}
    absent: dict[str, str] = dict(UNAVAILABLE)
    for name, denoiser in OPTIONAL.items():
        package = NEEDS[name]
        if installed(package):
            installed_methods[name] = Method(_optional_method(denoiser))
        else:
            absent[name] = f"{package} is not installed; pip install 'medldm[baselines]'"
    return installed_methods, absent


def _optional_method(denoiser: Callable[[Voxels, float, str], Voxels]) -> Callable[[Trial], Voxels | None]:
    def restore(trial: Trial) -> Voxels | None:
        if trial.row.verb != "denoise":
            return None
        return denoiser(np.asarray(trial.measured.voxels), level_of(trial), trial.modality.noise.family)

    return restore


def shipped() -> tuple[dict[str, Method], dict[str, str]]:
    """Our own methods, from the zoo; those that are not there, with the reason."""
    available: dict[str, Method] = {}
    absent: dict[str, str] = {}
    try:
        ours = best(MR.name)
        available |= variants("medldm", ours)
    except ModelError as problem:
        absent |= {"medldm": str(problem)}
    for known in cards():
        if known.name.endswith("-fast") and known.modality == MR.name:
            available["medldm-fast"] = model(known)
    try:
        available["medldm-ct"] = model(best(CT.name))
    except ModelError as problem:
        absent["medldm-ct"] = str(problem)
    return available, absent


def variants(name: str, which: Card, path: str | None = None) -> dict[str, Method]:
    """What a model answers; and one sample, and the mean of several, where it has a flow."""
    answers = {name: model(which, path)}
    if which.residual:
        answers[f"{name}-sample"] = model(which, path, fidelity=0.0)
        answers[f"{name}-mean"] = model(which, path, samples=SAMPLES)
    return answers


def own(path: str) -> dict[str, Method]:
    """Methods of a model that is not shipped, from the path of its card, weights or folder."""
    which = card(path)
    return variants(which.name, which, path)


def given_level(trial: Trial) -> float | None:
    """Noise level as ``--noise`` takes it, None when not given: a share of the *measured* foreground's p99.5; CT HU."""
    level = trial.facts.get("noise")
    if level is None or not trial.modality.noise.relative:
        return level
    return float(level) / trial.modality.scaling(trial.measured.voxels).unit


def level_of(trial: Trial) -> float:
    """Noise level that a method is given, or its estimate, scaled intensity."""
    scan, scaling = trial.stored(), trial.modality.fixed_scaling
    unit = 1.0 if scaling is None else scaling.unit
    given = trial.facts.get("noise")
    level = float(given) if given else estimate_noise(scan.voxels, scan.spacing, trial.row.modality).sigma
    return max(level / unit, 1e-4)


def _seen(trial: Trial) -> Voxels:
    """The measurement on the grid of the reference, as the networks get it."""
    assert trial.degradation is not None
    seen: Voxels = trial.degradation.observe(torch.from_numpy(np.array(trial.measured.voxels))).y.numpy()
    return seen


def _on_grid(trial: Trial, order: str) -> Voxels:
    """Plain interpolation; voxels beyond the outermost slice centres repeat the nearest, as every viewer shows them."""
    shape = trial.reference.shape
    affine = field_of_view_affine(trial.measured.affine, trial.measured.shape, shape)
    image = resample_to(trial.measured, affine, shape, order)
    return _nearest(image, ~np.isnan(image))


def _nearest(image: Voxels, known: np.ndarray[Any, Any]) -> Voxels:
    """Unknown voxels take the value of the nearest known one."""
    if known.all():
        return image
    at = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled: Voxels = image[tuple(at)]
    return filled
