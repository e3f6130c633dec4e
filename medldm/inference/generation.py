"""Draw scans of nobody: noise to latent along the flow, latent to voxels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from medldm.data.description import Description
from medldm.diffusion import interpolate
from medldm.diffusion.objective import QUARTER
from medldm.diffusion.samplers import DEFAULT, SAMPLERS
from medldm.errors import ModelError, UsageError
from medldm.models.blocks import dense_format
from medldm.models.checkpoint import read_weights
from medldm.models.generator import Autoencoder, GeneratorConfig, GeneratorFlow
from medldm.zoo import Card, cards, check_weights
from medldm.zoo import card as card_named

ROLE = "generator"  # of a card


@dataclass(frozen=True)
class Generator:
    """The networks of a generator on a device.

    Parameters
    ----------
    config : shape
    autoencoder : volumes to latents and back
    flow : noise to latents
    mean : (X, Y, Z) scaled intensity, mean of the training scans, which others are registered to; at half the grid
    """

    config: GeneratorConfig
    autoencoder: Autoencoder
    flow: GeneratorFlow
    mean: Tensor

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.autoencoder.mean.device

    def indices(self, descriptions: Sequence[Description]) -> Tensor:
        """(B, 4) conditions of the flow."""
        return self.flow.conditions.indices(list(descriptions)).to(self.device)


_loaded: dict[tuple[str, str, str], Generator] = {}


def load_generator(card: Card, device: str = "cpu") -> Generator:
    """The networks of a card, checked against its SHA-256; the last ones loaded are kept.

    Parameters
    ----------
    card : of a generator
    device : torch device

    Raises
    ------
    ModelError
        The card has no generator, or weights that do not fit it.
    """
    if not card.generator:
        raise ModelError(
            f"{card.name} restores scans and cannot draw them. Choose a model with the role generator (`medldm "
            "models`)."
        )
    key = (str(card.path), card.sha256, device)
    if key not in _loaded:
        check_weights(card)
        _loaded.clear()
        config, tensors = config_of(card), read_weights(card)

        def filled(name: str, network: Any) -> Any:
            prefix = f"{name}."
            weights = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
            network.load_state_dict(weights)
            for weight in network.parameters():
                if weight.ndim > 3:
                    weight.data = dense_format(weight.data)
            return network.to(device).eval().requires_grad_(False)

        try:
            networks = filled("autoencoder", Autoencoder(config)), filled("flow", GeneratorFlow(config))
            mean = tensors["template.mean"].float()
        except (RuntimeError, TypeError, KeyError) as problem:
            raise ModelError(
                f"The weights of {card.name} do not fit its card: its networks have other parts or sizes. Install "
                "medldm again, or train the model anew."
            ) from problem
        _loaded[key] = Generator(config, *networks, mean)
    return _loaded[key]


def unload() -> None:
    """Forget the loaded generator, so that its memory is free."""
    _loaded.clear()


def config_of(card: Card) -> GeneratorConfig:
    """Shape of a card's generator.

    Raises
    ------
    ModelError
    """
    known = {field.name for field in fields(GeneratorConfig)}
    widths: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in card.generator.items() if key in known
    }
    try:
        return GeneratorConfig(**widths)
    except TypeError as problem:
        raise ModelError(f"The card of {card.name} does not say what its generator looks like.") from problem


def generator_for(wanted: Description, model: str = "auto") -> Card:
    """The card that draws what is asked for.

    Parameters
    ----------
    wanted : description; what it does not say is free
    model : name or path, or ``"auto"``

    Raises
    ------
    ModelError
        No such model, or one that draws nothing.
    UsageError
        A model that was not trained on what is asked for.
    """
    if model != "auto":
        chosen = card_named(model)
        if not chosen.generator:
            raise ModelError(
                f"{chosen.name} restores scans and cannot draw them. Choose a model with the role generator (`medldm "
                "models`)."
            )
        check_fit(chosen, wanted)
        return chosen
    able = [one for one in cards() if one.role == ROLE]
    if not able:
        raise ModelError(
            "No model that draws scans is shipped. Train one with `medldm train generator DATA OUT`, and name it with "
            "--model OUT."
        )
    fit = [one for one in able if not misfit(one, wanted)]
    if not fit:
        raise UsageError(f"No shipped model draws {wanted}: {'; '.join(misfit(one, wanted) for one in able)}.")
    return max(fit, key=lambda one: int(one.training.get("scans", 0)))


def misfit(card: Card, wanted: Description) -> str:
    """Why a generator cannot draw what is asked for; empty where it can."""
    config = config_of(card)
    for name, value, known in (
        ("contrast", wanted.contrast, config.contrasts),
        ("region", wanted.region, config.regions),
    ):
        if value and value not in known:
            return f"{card.name} knows the {name} {' and '.join(known)}, not {value}"
    ages = card.generator.get("ages")
    if wanted.age is not None and not ages:
        return f"{card.name} was never told an age"
    if wanted.sex and not card.generator.get("sexes"):
        return f"{card.name} was never told a sex"
    return ""


def check_fit(card: Card, wanted: Description) -> None:
    """Refuse what a generator was not trained on.

    Raises
    ------
    UsageError
    """
    if why := misfit(card, wanted):
        raise UsageError(f"{why}. Leave it out, or choose another --model.")


def outside_training(card: Card, wanted: Description) -> str:
    """What of a description lies outside of the training data, a sentence; empty where nothing does."""
    ages = card.generator.get("ages")
    if wanted.age is not None and ages and not ages[0] <= wanted.age <= ages[1]:
        return (
            f"{card.name} learned from people of {ages[0]:g} to {ages[1]:g} years; what it draws for {wanted.age:g} "
            "years is a guess."
        )
    return ""


def draw_latent(
    generator: Generator,
    description: Description,
    *,
    seed: int,
    steps: int,
    guidance: float = 1.0,
    like: Tensor | None = None,
    strength: float = 1.0,
    sampler: str | Callable[..., Tensor] = DEFAULT,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """A latent drawn from noise, or from a given one that noise was added to.

    With guidance g the velocity is ``u + g (c - u)`` of the velocities with and without the description (classifier-
    free guidance: Ho and Salimans, 2022); 1 is the description alone.

    Parameters
    ----------
    generator : networks
    description : what to draw
    seed : of the noise
    steps : of the sampler
    guidance : g
    like : (1, C, ...) normalised latent to vary; None draws a new one
    strength : how much of `like` is forgotten: 0 nothing, 1 all
    sampler : name in `medldm.diffusion.SAMPLERS`, or a function of that signature
    progress : called with (steps done, steps in all)

    Returns
    -------
    (1, C, ...) normalised latent
    """
    config = generator.config
    shape = (1, config.latent_channels, *config.latent_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(generator.device)
    if like is not None and strength <= 0:
        return like
    begin, start = noise, 0.0
    if like is not None and strength < 1:
        start = 1.0 - strength
        begin, _ = interpolate(like, noise, torch.full((1,), start, device=generator.device))
    wanted, free = generator.indices([description]), generator.indices([Description()])
    done = 0

    def velocity(z: Tensor, time: Tensor) -> Tensor:
        nonlocal done
        done += 1
        progress(min(done, steps), steps)
        if guidance == 1:
            plain: Tensor = generator.flow(z, time, wanted)
            return plain
        both = generator.flow(torch.cat([z, z]), torch.cat([time, time]), torch.cat([wanted, free]))
        guided: Tensor = both[1:] + guidance * (both[:1] - both[1:])
        return guided

    with torch.no_grad():
        run = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
        drawn: Tensor = run(velocity, begin, steps, start)
        # A sampler of one's own may hold parts of the latent fast.
        return generator.flow.gaussian.matched(drawn, 1.0 - start) if isinstance(sampler, str) else drawn


def draw_voxels(generator: Generator, latent: Tensor) -> Tensor:
    """(X, Y, Z) scaled intensity, at least 0, of a (1, C, ...) normalised latent."""
    with torch.no_grad():
        image: Tensor = generator.autoencoder.image(latent)[0, 0]
    return image.float().clamp_min(0).cpu()


def encoded(generator: Generator, voxels: Tensor) -> Tensor:
    """(1, C, ...) normalised latent of (X, Y, Z) scaled intensity on the generator's grid."""
    with torch.no_grad():
        return generator.autoencoder.normalised(voxels[None, None].to(generator.device))


def redraw(
    generator: Generator,
    description: Description,
    latent: Tensor,
    here: Tensor,
    *,
    seed: int,
    steps: int,
    guidance: float,
    strength: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """A latent of which a part is drawn anew; the rest follows the path of the given one at every step.

    (Lugmayr et al., "RePaint", CVPR 2022, without its returns to earlier times.)

    Parameters
    ----------
    generator : networks
    description : what to draw
    latent : (1, C, ...) normalised latent of the scan
    here : (X, Y, Z) bool on the voxel grid, what is drawn anew
    seed, steps, guidance, progress : see `draw_latent`
    strength : how much of the latent is forgotten there, in (0, 1]

    Returns
    -------
    (1, C, ...) normalised latent
    """
    factor = generator.config.factor
    inside = torch.nn.functional.max_pool3d(here.float()[None, None], factor).to(generator.device) > 0
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)).to(generator.device)

    def sampler(flow: Any, z: Tensor, number: int, start: float) -> Tensor:
        """Euler steps in the angle, the outside put back after each."""
        for step in range(number):
            time, after = (start + (1 - start) * (step + more) / number for more in (0, 1))
            z = z + flow(z, torch.full((1,), time, device=z.device)) * ((after - time) * QUARTER)
            known, _ = interpolate(latent, noise, torch.full((1,), after, device=z.device))
            z = torch.where(inside, z, known)
        return z

    return draw_latent(
        generator,
        description,
        seed=seed,
        steps=steps,
        guidance=guidance,
        like=latent,
        strength=strength,
        sampler=sampler,
        progress=progress,
    )
