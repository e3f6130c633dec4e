"""Edit: a region is drawn anew, as words or another scan say; everything outside it stays bit for bit.

Three sources of what stands in the region, in this order: another scan (``like``), a generator that knows what the scan
shows, and the networks that fill regions. `strength` says how much of the scan's own voxels is forgotten. Whatever the
source, the difference at the rim is carried smoothly into the region, so that no seam is left (after Perez, Gangnet and
Blake, "Poisson image editing", SIGGRAPH 2003).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from medldm.errors import UsageError
from medldm.settings import Progress, Settings, knob, unused
from medldm.tasks.base import RESAMPLING, Inputs, Keeps, Labels, Need, Task
from medldm.tasks.inpaint import filled, region_facts, region_of

if TYPE_CHECKING:
    from medldm.data.intensity import Mask
    from medldm.data.volume import Affine, Volume, Voxels
    from medldm.inference.pipeline import Samples
    from medldm.inference.resolve import ResolvedScan
    from medldm.zoo import Card

NO_SPREAD = "what was drawn is no estimate of what was there, so it has no standard deviation"
RIM = 3  # voxels around a region in which its new voxels are compared with the scan
FITS = 0.6  # correlation with a generator's mean scan, from which on it knows what the scan shows


@dataclass(frozen=True, kw_only=True)
class Edit(Settings):
    """Draw a region anew, as words or another scan say; everything outside it stays bit for bit."""

    mask: str | None = knob(None, "image that is non-zero where the scan is to be drawn anew", metavar="MASK")
    prompt: str = knob("", "words, for scans that a generator knows", metavar="PROMPT", title="Words")
    like: str | None = knob(
        None, "scan whose voxels the region takes, registered to this one", metavar="SCAN", title="Like"
    )
    strength: float = knob(
        0.6, "how much of what stands there is forgotten: 0 nothing, 1 all", low=0, high=1, title="Strength"
    )
    guidance: float = knob(1.0, "how closely words are followed; 1 as learned", low=0, high=10, title="Guidance")
    steps: int = knob(32, "flow steps of a generator", low=1, high=200, whole=True, title="Steps")
    ignore_unknown: bool = knob(False, "go on where words are not understood", title="Ignore unknown words")
    fidelity: float = unused(1.0)
    samples: int = unused(1)


class Drawn(NamedTuple):
    """What a source gives for a region.

    Parameters
    ----------
    voxels : (X, Y, Z) float32, unit of the scan; only those of the region and its rim count
    blended : whether the strength is in them already
    source : words for the record
    """

    voxels: Voxels
    blended: bool
    source: dict[str, Any]


def run(inputs: Inputs, settings: Edit, progress: Progress) -> Volume:
    """Draw a region anew; see `medldm.edit`."""
    import numpy as np

    from medldm.data.volume import merge_filled
    from medldm.inference.pipeline import record

    assert inputs.scan is not None
    assert inputs.mask is not None
    volume = inputs.scan
    region = region_of(volume, inputs.mask)
    if not region.any() or settings.strength == 0:
        return volume
    if settings.prompt.strip() and settings.like:
        raise UsageError("--prompt and --like both say what to draw. Name one.")
    # The networks that fill regions say what the scan is and how sure the result would be, whatever is drawn.
    scan, samples = filled(volume, region, _for_filling(settings), EDIT, progress)
    own = np.nan_to_num(volume.voxels.astype(np.float32))
    drawn = _drawn(volume, region, settings, scan, samples, progress)
    candidate = seamless(drawn.voxels, own, region)
    if not drawn.blended:
        candidate = (1 - settings.strength) * own + settings.strength * candidate
    if scan.positive:
        candidate = np.maximum(candidate, 0)
    voxels = merge_filled(volume, candidate, region)
    if drawn.source["drawn_by"] != "fill" or settings.strength < 1:
        samples = replace(samples, std=None, half_width=None, why_no_std=NO_SPREAD)
    facts = region_facts(volume, region) | drawn.source | {"strength": settings.strength}
    facts["seam"] = round(seam(np.where(region, candidate, own), region), 3)  # own: NaN is no step
    return record(scan, samples, voxels, facts, restored=region)


def _for_filling(settings: Edit) -> Settings:
    """The same settings for the networks that fill regions; a generator's name means nothing to them."""
    from medldm.zoo import card

    return replace(settings, model="auto") if settings.model != "auto" and card(settings.model).generator else settings


def _drawn(
    volume: Volume, region: Mask, settings: Edit, scan: ResolvedScan, samples: Samples, progress: Progress
) -> Drawn:
    """What the region takes.

    Raises
    ------
    UsageError
        Words that nothing can follow.
    """
    from medldm.inference.pipeline import in_stored_units

    if settings.like:
        return _from_scan(volume, settings, scan)
    if generator := _generator_for(volume, settings, scan):
        card, mapping = generator
        return _from_generator(volume, region, settings, scan, card, mapping, progress)
    if settings.prompt.strip():
        raise UsageError(
            f"No model here draws what {volume.name} shows, so words cannot be followed. Leave --prompt out to fill "
            "the region from its surroundings, or name a scan with --like."
        )
    return Drawn(in_stored_units(scan, samples.mean), False, {"drawn_by": "fill"})


def _from_scan(volume: Volume, settings: Edit, scan: ResolvedScan) -> Drawn:
    """The voxels of another scan, registered, in the unit of this one.

    Raises
    ------
    UsageError
        It is of another modality.
    """
    import numpy as np

    from medldm.data import template
    from medldm.data.resample import nearest_filled, resample_to
    from medldm.tasks.inputs import grid_difference, scan_like

    other = scan_like(str(settings.like), scan.modality.name, volume.name)
    same_grid = not grid_difference(other, volume)
    mapping = np.eye(4)
    if not same_grid:
        mapping = template.registered(template.scaled_intensity(other), template.scaled_intensity(volume))
    moved = other.with_voxels(np.nan_to_num(other.voxels.astype(np.float32)), np.linalg.inv(mapping) @ other.affine)
    placed = resample_to(moved, volume.affine, volume.shape)
    inside = np.isfinite(placed)
    if not inside.any():
        raise UsageError(f"--like {settings.like} shows nothing of what {volume.name} shows.")
    placed = placed if inside.all() else nearest_filled(placed, inside)
    theirs = scan.modality.scaling(other.voxels)
    voxels = scan.scaling.invert(theirs.apply(placed))
    return Drawn(voxels, False, {"drawn_by": "scan", "like": str(settings.like), "registered": not same_grid})


def _generator_for(volume: Volume, settings: Edit, scan: ResolvedScan) -> tuple[Card, Affine] | None:
    """A generator that knows what the scan shows, and how its world lies in the scan's; None where there is none.

    Raises
    ------
    UsageError, ModelError
        One was named and does not fit.
    """
    from medldm.inference import generation, generator_grid
    from medldm.zoo import card, cards

    named = settings.model != "auto" and bool(card(settings.model).generator)
    known = [card(settings.model)] if named else [one for one in cards() if one.role == generation.ROLE]
    if settings.model != "auto" and not named:
        return None
    best: tuple[float, Card, Affine] | None = None
    for one in known:
        if not generator_grid.may_show(one, volume, scan.modality.name):
            continue
        likeness, mapping = generator_grid.likeness(one, volume, scan.device)
        if likeness >= FITS and (best is None or likeness > best[0]):
            best = likeness, one, mapping
    if best is None and named:
        raise UsageError(
            f"{volume.name} does not look like what {known[0].name} draws. Choose another --model, or leave it out to "
            "fill the region from its surroundings."
        )
    return None if best is None else best[1:]


def _from_generator(
    volume: Volume,
    region: Mask,
    settings: Edit,
    scan: ResolvedScan,
    card: Card,
    mapping: Affine,
    progress: Progress,
) -> Drawn:
    """The region drawn by a generator: latents outside it follow those of the scan at every step."""
    import numpy as np
    import torch

    from medldm.data import template
    from medldm.inference import generation, generator_grid

    generator = generation.load_generator(card, scan.device)
    config = generator.config
    wanted = _description(settings, card)
    grid = generator_grid.placed(generator, card, volume, mapping)
    drawn_on = volume.with_voxels(region.astype(np.float32))
    here = torch.from_numpy(generator_grid.on_card_grid(drawn_on, card, config, mapping) > 0)
    if not here.any():
        raise UsageError("The mask lies outside of what the generator draws. Leave --model out.")
    before = generation.encoded(generator, grid)
    after = generation.redraw(
        generator,
        wanted,
        before,
        here,
        seed=settings.seed,
        steps=settings.steps,
        guidance=settings.guidance,
        strength=settings.strength,
        progress=lambda done, total: progress(done, total, "drawing"),
    )
    scaling = template.scaling_of(volume)
    old, new = (
        scaling.invert(
            generator_grid.back_on_scan(generation.draw_voxels(generator, latent).numpy(), card, volume, mapping)
        )
        for latent in (before, after)
    )
    own = np.nan_to_num(volume.voxels.astype(np.float32))
    # What the autoencoder cannot say of the scan, its fine detail, is forgotten as far as the strength asks.
    voxels = new + (1 - settings.strength) * (own - old)
    return Drawn(voxels.astype(np.float32), True, {"drawn_by": card.name, "description": str(wanted)})


def _description(settings: Edit, card: Card) -> Any:
    """What the words ask for.

    Raises
    ------
    UsageError
        Words that are not understood, or that the generator was not trained on.
    """
    from medldm.data.description import Description
    from medldm.inference.generation import check_fit
    from medldm.tasks.generate import understood

    wanted = understood(settings.prompt, settings.ignore_unknown) if settings.prompt.strip() else Description()
    check_fit(card, wanted)
    return wanted


def seamless(drawn: Voxels, own: Voxels, region: Mask) -> Voxels:
    """New voxels of a region plus the difference at its rim, carried smoothly through the region.

    Parameters
    ----------
    drawn, own : (X, Y, Z) float32, new and old voxels, one unit
    region : (X, Y, Z) bool
    """
    import numpy as np
    import torch
    from scipy import ndimage

    from medldm.degradations.regions import fill_smoothly

    parts = ndimage.find_objects(region.astype(np.uint8))[0]
    box = tuple(slice(max(0, part.start - RIM), part.stop + RIM) for part in parts)
    inside = region[box]
    if inside.all():
        return drawn
    difference = torch.from_numpy(np.ascontiguousarray((own - drawn)[box]).astype(np.float32))
    carried = fill_smoothly(difference, torch.from_numpy(~inside)).numpy()
    result = drawn.astype(np.float32).copy()
    result[box] += carried
    return result


def seam(voxels: Voxels, region: Mask) -> float:
    """How much larger steps across the rim of a region are than steps beside it; 1 where no seam is seen.

    Parameters
    ----------
    voxels : (X, Y, Z) edited
    region : (X, Y, Z) bool
    """
    import numpy as np
    from scipy import ndimage

    near = ndimage.binary_dilation(region, iterations=RIM) & ~ndimage.binary_erosion(region, iterations=RIM)
    across, beside = [], []
    for axis in range(3):
        step = np.abs(np.diff(voxels, axis=axis))
        first, second = (np.take(region, range(a, region.shape[axis] - 1 + a), axis) for a in (0, 1))
        close = np.take(near, range(region.shape[axis] - 1), axis) & np.take(near, range(1, region.shape[axis]), axis)
        across.append(step[first != second])
        beside.append(step[(first == second) & close])
    over, around = np.concatenate(across), np.concatenate(beside)
    return float(over.mean() / max(float(around.mean()), 1e-12)) if over.size and around.size else 1.0


EDIT = Task(
    name="edit",
    help="draw a region anew, as words or another scan say; the rest stays bit for bit",
    settings=Edit,
    run=run,
    labels=Labels(
        title="Edit",
        past="edited",
        desc="edited",
        derivation=(RESAMPLING,),
        examples=(
            "medldm edit scan.nii.gz edited.nii.gz --mask mask.nii.gz --strength 1",
            "medldm edit scan.nii.gz edited.nii.gz --mask mask.nii.gz --like other.nii.gz",
        ),
    ),
    needs=frozenset({Need.SCAN, Need.MASK}),
    keeps=Keeps.OUTSIDE_MASK,
    networks="inpaint",
)
