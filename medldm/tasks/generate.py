"""Generate: a scan of nobody, from words and named values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medldm.errors import UsageError
from medldm.settings import Progress, Settings, knob, unused
from medldm.tasks.base import Inputs, Labels, Task

if TYPE_CHECKING:
    from medldm.data.description import Description
    from medldm.data.volume import Volume

LEVELS = 1000.0  # stored levels from black to white


@dataclass(frozen=True, kw_only=True)
class Generate(Settings):
    """Draw scans of people who do not exist, from words or named values; each is marked as synthetic."""

    prompt: str = knob("", 'words, as in "T1w hippocampus"', metavar="PROMPT", title="Words")
    contrast: str = knob("", "contrast; counts more than the words", metavar="NAME", title="Contrast")
    region: str = knob("", "what the scan shows; counts more than the words", metavar="NAME", title="Body region")
    sex: str = knob("", "female or male; counts more than the words", choices=("", "female", "male"), title="Sex")
    age: float | None = knob(
        None, "age; counts more than the words", unit="years", low=0, high=120, metavar="YEARS", title="Age"
    )
    guidance: float = knob(
        1.0, "how closely the description is followed; 1 as it was learned", low=0, high=10, title="Guidance"
    )
    steps: int = knob(
        32, "flow steps a scan; more draw finer and take longer", low=1, high=200, whole=True, title="Steps"
    )
    spacing: float | None = knob(
        None,
        "voxel size; finer than the generator draws is made by super-resolution; that of the card when not given",
        unit="mm",
        low=0.5,
        high=4,
        title="Voxel size",
    )
    like: str | None = knob(None, "scan that is varied instead of drawing a new one", metavar="SCAN", title="Like")
    strength: float = knob(
        0.6, "how much of that scan is forgotten: 0 nothing, 1 all", low=0, high=1, title="Strength of variation"
    )
    ignore_unknown: bool = knob(False, "go on where words are not understood", title="Ignore unknown words")
    watermark: bool = knob(True, "mark the voxels, so that `inspect` recognises them", title="Watermark")
    modality: str = unused("auto")
    fidelity: float = unused(1.0)
    samples: int = unused(1)
    tile: int | None = unused(None)
    axis: int = unused(2)

    def description(self) -> Description:
        """What is asked for, the named values before the words.

        Raises
        ------
        UsageError
            Nothing is asked for, or words that are not understood.
        """
        from medldm.data.description import Description

        named = Description(contrast=self.contrast, region=self.region, sex=self.sex, age=self.age)
        if not self.prompt.strip() and (named != Description() or self.like):
            return named
        return named.filled(understood(self.prompt, self.ignore_unknown))


def understood(prompt: str, ignore_unknown: bool = False) -> Description:
    """The description that words give.

    Raises
    ------
    UsageError
        Words that are not understood, unless they may be ignored.
    """
    from medldm.data.description import parse, vocabulary

    parsed = parse(prompt)
    if parsed.unknown and not ignore_unknown:
        raise UsageError(
            f"Not understood: {', '.join(map(repr, parsed.unknown))} (understood: {parsed.description}). "
            f"Say it with these words, or go on without with --ignore-unknown: {vocabulary()}."
        )
    return parsed.description


def run(inputs: Inputs, settings: Generate, progress: Progress) -> Volume:
    """Draw one scan; see `medldm.generate`."""
    import logging

    import numpy as np

    from medldm.data.template import centred_affine
    from medldm.data.volume import Step, Stored, Volume
    from medldm.inference import generation
    from medldm.inference.device import pick_device
    from medldm.inference.memory import or_lack_of_memory
    from medldm.provenance.record import package_version
    from medldm.qc import watermark

    log = logging.getLogger(__name__)
    wanted = settings.description()
    card = generation.generator_for(wanted, settings.model)
    device = pick_device(settings.device)
    generator = generation.load_generator(card, device)
    config = generator.config
    spacing = settings.spacing or float(card.generator.get("finest", config.spacing))
    if spacing > config.spacing * 1.01:
        raise UsageError(
            f"--spacing {spacing:g} is coarser than the {config.spacing:g} mm that {card.name} draws. Leave it out."
        )
    if note := generation.outside_training(card, wanted):
        log.warning("%s", note)
    like, source = varied(settings, generator, card) if settings.like else (None, {})

    def drawn() -> Any:
        latent = generation.draw_latent(
            generator,
            wanted,
            seed=settings.seed,
            steps=settings.steps,
            guidance=settings.guidance,
            like=like,
            strength=settings.strength,
            progress=lambda done, total: progress(done, total, "drawing"),
        )
        return generation.draw_voxels(generator, latent).numpy()

    voxels = or_lack_of_memory("the scan to be drawn", drawn)
    facts = {
        "medldm": package_version("medldm"),
        "model": card.name,
        "sha256": card.sha256,
        "modality": card.modality,
        "device": device,
        "seed": settings.seed,
        "steps": settings.steps,
        "description": str(wanted),
        "synthetic": True,
        "watermark": settings.watermark,
        **source,
    }
    whole = Volume(
        (voxels * LEVELS).astype(np.float32),
        centred_affine(config.shape, config.spacing),
        name="synthetic",
        stored=Stored(dtype=np.dtype(np.int16), modality=card.modality),
    )
    if spacing < config.spacing * 0.99:
        whole = finer(whole, spacing, settings, progress)
        facts["super_resolved_to_mm"] = spacing
    final = np.clip(whole.voxels, 0, 32767).astype(np.float32)
    if settings.watermark:
        final = np.clip(watermark.mark(final), 0, 32767)
    final = np.rint(final).astype(np.float32)
    facts["invented_slices"] = list(range(final.shape[2]))
    step = Step("generate", settings.asdict(), facts)
    stored = Stored(
        dtype=np.dtype(np.int16), modality=card.modality, thickness_mm=whole.spacing[2], note=("generated, of nobody",)
    )
    return Volume(final, whole.affine, name="synthetic", history=(step,), stored=stored)


def finer(scan: Volume, spacing: float, settings: Generate, progress: Progress) -> Volume:
    """The drawn scan at a finer grid, by the restoration networks."""
    from medldm.tasks import run as run_task
    from medldm.tasks.super_resolve import SuperResolve

    options = SuperResolve(
        spacing=spacing, device=settings.device, precision=settings.precision, modality=scan.stored.modality or "auto"
    )
    return run_task("super-resolve", scan, options, progress=progress)


def varied(settings: Generate, generator: Any, card: Any) -> tuple[Any, dict[str, Any]]:
    """Normalised latent of the scan to be varied, on the generator's grid, and what the record says of it.

    Raises
    ------
    UsageError
        It is of another modality.
    """
    from medldm.inference.generation import encoded
    from medldm.inference.generator_grid import on_grid
    from medldm.tasks.inputs import scan_like

    scan = scan_like(str(settings.like), card.modality, f"what {card.name} draws")
    facts = {"like": str(settings.like), "strength": settings.strength}
    return encoded(generator, on_grid(generator, card, scan)), facts


GENERATE = Task(
    name="generate",
    help="draw synthetic scans of nobody from words",
    settings=Generate,
    run=run,
    labels=Labels(
        title="Generate",
        past="generated",
        desc="synthetic",
        examples=(
            'medldm generate "T1w hippocampus" synthetic.nii.gz',
            'medldm generate "T1w hippocampus" synthetic/ --count 100 --shard 1/4',
            'medldm generate "T1w brain, female, 34 years" synthetic.nii.gz --model runs/mine',
        ),
    ),
    needs=frozenset(),
)
