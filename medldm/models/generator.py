"""The networks that draw whole scans: an autoencoder of volumes, and a flow of its latents with what is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medldm.data.description import SEXES, Description
from medldm.models.blocks import depth_to_space, space_to_depth
from medldm.models.monai_parts import AutoencoderKL, DiffusionModelUNet
from medldm.models.residual import TIME_GAIN

GROUPS = 16  # of the normalisation
GAINS = (0.5, 2.0)  # limits of the correction of a sample's power
YEARS = 100.0  # that count as 1
QUARTER = math.pi / 2  # angle of the path of `medldm.diffusion.objective` from noise to latent


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Shape of a generator; stored with its weights.

    Parameters
    ----------
    shape : (X, Y, Z) voxels of what it draws
    spacing : mm
    contrasts, regions : that it was trained on, each a condition
    patch : space-to-depth factor in front of the autoencoder
    autoencoder : channels of each level of the MONAI AutoencoderKL; between levels the grid is halved
    autoencoder_blocks : residual blocks a level
    latent_channels : channels of the latent
    by_place : latents are brought to unit variance at each place, not only in each channel: on heads of one grid, what
        lies outside of the head does not vary
    flow : channels of each level of the MONAI DiffusionModelUNet
    flow_blocks : residual blocks a level
    token : width of a condition
    """

    shape: tuple[int, int, int]
    spacing: float
    contrasts: tuple[str, ...] = ("T1w",)
    regions: tuple[str, ...] = ("brain",)
    patch: int = 2
    autoencoder: tuple[int, ...] = (32, 64)
    autoencoder_blocks: int = 1
    latent_channels: int = 8
    by_place: bool = False
    flow: tuple[int, ...] = (32, 64, 96)
    flow_blocks: int = 1
    token: int = 64

    @property
    def factor(self) -> int:
        """Voxels per latent along each axis."""
        return int(self.patch * 2 ** (len(self.autoencoder) - 1))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(X, Y, Z) latents."""
        x, y, z = (size // self.factor for size in self.shape)
        return x, y, z


class Autoencoder(AutoencoderKL):  # type: ignore[misc]
    """Volumes to latents of unit variance and back: principal components of blocks, and what a network adds to them.

    It begins as the principal components that `start_from_blocks` gives it, and learns what these lack.

    Parameters
    ----------
    config : of the generator
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        cells, levels = config.patch**3, len(config.autoencoder)
        super().__init__(
            spatial_dims=3,
            in_channels=cells,
            out_channels=cells,
            channels=config.autoencoder,
            num_res_blocks=(config.autoencoder_blocks,) * levels,
            attention_levels=(False,) * levels,
            latent_channels=config.latent_channels,
            norm_num_groups=GROUPS,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        self.patch, self.factor = config.patch, config.factor
        block = config.factor**3
        self.analysis = nn.Conv3d(block, config.latent_channels, 1)
        self.synthesis = nn.Conv3d(config.latent_channels, block, 3, padding=1)
        for layer in (self.quant_conv_mu.conv, self.post_quant_conv.conv):
            layer.reset_parameters()
        last = [layer for layer in self.decoder.modules() if isinstance(layer, nn.Conv3d)][-1]
        for layer in (self.quant_conv_mu.conv, last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.quant_conv_log_sigma.conv.weight)
        nn.init.constant_(self.quant_conv_log_sigma.conv.bias, 2 * math.log(0.05))
        # Statistics of the latents of the training scans: the flow sees them with mean 0 and variance 1.
        size = (config.latent_channels, *(config.latent_shape if config.by_place else ()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def start_from_blocks(self, volumes: Tensor) -> None:
        """Begin as principal components of blocks.

        Parameters
        ----------
        volumes : (N, 1, X, Y, Z) scaled intensity
        """
        blocks = space_to_depth(volumes, self.factor)
        rows = blocks.movedim(1, -1).reshape(-1, blocks.shape[1]).double()
        centre = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - centre).T @ (rows - centre) / len(rows))
        count = self.latent_channels
        basis, spread = vectors[:, -count:].flip(1), values[-count:].flip(0).clamp_min(1e-12).sqrt()
        with torch.no_grad():
            weights = (basis / spread).T
            self.analysis.weight.copy_(weights[..., None, None, None])
            self.analysis.bias.copy_(-(weights @ centre))  # type: ignore[union-attr]
            self.synthesis.weight.zero_()
            self.synthesis.weight[..., 1, 1, 1].copy_(basis * spread)
            self.synthesis.bias.copy_(centre)  # type: ignore[union-attr]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent, both (B, C, ...).

        Parameters
        ----------
        x : (B, 1, X, Y, Z) scaled intensity, axes multiples of the factor
        """
        mu, sigma = super().encode(space_to_depth(x, self.patch))
        linear: Tensor = self.analysis(space_to_depth(x, self.factor))
        return mu + linear, sigma

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, ...) latent to (B, 1, X, Y, Z) scaled intensity."""
        linear = depth_to_space(self.synthesis(z), self.factor)
        image: Tensor = linear + depth_to_space(super().decode(z), self.patch)
        return image

    def normalised(self, x: Tensor) -> Tensor:
        """(B, C, ...) latent as the flow sees it: the mean, never a sample, at unit scale."""
        return (self.encode(x)[0] - _over(self.mean)) / _over(self.scale)

    def image(self, normalised: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) scaled intensity of a latent as the flow sees it."""
        return self.decode(self.latent(normalised))

    def latent(self, normalised: Tensor) -> Tensor:
        """(B, C, ...) latent as the decoder sees it, of one as the flow sees it."""
        return normalised * _over(self.scale) + _over(self.mean)


class Conditions(nn.Module):
    """A token for each thing that can be asked for; what is not said has a token of its own.

    Parameters
    ----------
    config : of the generator
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.contrasts, self.regions = config.contrasts, config.regions
        self.contrast = nn.Embedding(1 + len(config.contrasts), config.token)
        self.region = nn.Embedding(1 + len(config.regions), config.token)
        self.sex = nn.Embedding(1 + len(SEXES), config.token)
        self.age = nn.Sequential(nn.Linear(3, config.token), nn.SiLU(), nn.Linear(config.token, config.token))

    def indices(self, descriptions: list[Description]) -> Tensor:
        """(B, 4) contrast, region and sex as numbers, 0 for what is not said; age in years, -1 where it is not said."""
        rows = [
            (
                _place(d.contrast, self.contrasts),
                _place(d.region, self.regions),
                _place(d.sex, SEXES),
                -1.0 if d.age is None else d.age,
            )
            for d in descriptions
        ]
        return torch.tensor(rows, dtype=torch.float32)

    def forward(self, indices: Tensor) -> Tensor:
        """(B, 4) of `indices` to (B, 4, token)."""
        known = (indices[:, 3] >= 0).float()
        age = indices[:, 3].clamp_min(0) / YEARS
        ages = torch.stack([known, known * age, known * age**2], 1)
        places = indices[:, :3].long()
        tokens = [self.contrast(places[:, 0]), self.region(places[:, 1]), self.sex(places[:, 2]), self.age(ages)]
        return torch.stack(tokens, 1)


class GaussianVelocity(nn.Module):
    """The velocity that would be right if latents were Gaussian: what a network need not learn from few scans.

    The Gaussian has a mean at each place, and around it the same covariance everywhere, so that the discrete cosine
    transform makes it a small matrix of channels for each frequency. Such a model is fitted by tens of scans; principal
    components of whole scans learned people by heart (docs/decisions/0058). On the path z = cos(a) noise + sin(a)
    latent the mean of the velocity given z is, for each eigenvalue l,
    ``cos(a) m + sin(a) cos(a) (l - 1) / (sin(a)^2 l + cos(a)^2) (z - sin(a) m)``. That scores of diffusion models begin
    as those of a Gaussian: Wang and Vastola, "The hidden linear structure in score-based models", 2023.

    Parameters
    ----------
    config : of the generator
    """

    mean: Tensor
    variance: Tensor
    vectors: Tensor
    gain: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        channels, grid = config.latent_channels, config.latent_shape
        self.register_buffer("gain", torch.ones((channels, *grid)))
        self.register_buffer("mean", torch.zeros((channels, *grid)))
        self.register_buffer("variance", torch.ones((*grid, channels)))
        self.register_buffer("vectors", torch.eye(channels).repeat(*grid, 1, 1))

    def fit(self, latents: Tensor) -> None:
        """Take mean and covariance from latents.

        Parameters
        ----------
        latents : (N, C, X, Y, Z) normalised, of training scans and variants of them
        """
        mean = latents.float().mean(0)
        moments = torch.zeros_like(self.vectors, dtype=torch.float64)
        for part in torch.split(latents, 64):
            waves = _cosines(part.float() - mean).double()
            moments += torch.einsum("nixyz,njxyz->xyzij", waves, waves) / len(latents)
        values, vectors = torch.linalg.eigh(moments)
        self.mean.copy_(mean)
        self.variance.copy_(values.clamp_min(1e-3))
        self.vectors.copy_(vectors)

    def match(self, samples: Tensor) -> None:
        """Find what samples lack in power at each frequency; `matched` gives it to them.

        A network that learned from few scans is unsure, and an unsure velocity leads to samples that vary too little.

        Parameters
        ----------
        samples : (N, C, X, Y, Z) that the flow drew; samples of other steps or guidance get the same correction later,
            though they may lack less or more
        """
        own, wanted = (self._waves(samples) ** 2).mean(0), self.variance.movedim(3, 0)
        # Neighbouring frequencies together: of one alone the power of tens of samples is uncertain.
        near, of = (F.avg_pool3d(F.pad(power[None], (1,) * 6, mode="replicate"), 3, 1)[0] for power in (wanted, own))
        self.gain.copy_((near / of.clamp_min(1e-6)).sqrt().clamp(*GAINS))

    def matched(self, samples: Tensor, share: float = 1.0) -> Tensor:
        """(N, C, X, Y, Z) samples with the power that latents of scans have at each frequency.

        Parameters
        ----------
        samples : (N, C, X, Y, Z) that the flow drew
        share : of the way there, as an exponent of the gain
        """
        own = self._waves(samples) * self.gain**share
        return self.mean + _cosines(torch.einsum("xyzij,njxyz->nixyz", self.vectors, own), inverse=True)

    def _waves(self, latents: Tensor) -> Tensor:
        """(N, C, X, Y, Z) what differs from the mean, along the principal axes at each frequency."""
        return torch.einsum("xyzij,nixyz->njxyz", self.vectors, _cosines(latents - self.mean))

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        """(B, C, X, Y, Z) velocity; parameters as of `GeneratorFlow`."""
        angle = (time * QUARTER).reshape(-1, 1, 1, 1, 1).to(z)
        cos, sin = angle.cos(), angle.sin()
        own = torch.einsum("xyzij,nixyz->njxyz", self.vectors, _cosines(z - sin * self.mean))
        variance = self.variance.movedim(3, 0)[None]
        own = own * (sin * cos * (variance - 1) / (sin**2 * variance + cos**2))
        change = _cosines(torch.einsum("xyzij,njxyz->nixyz", self.vectors, own), inverse=True)
        velocity: Tensor = cos * self.mean + change
        return velocity


def _cosines(image: Tensor, *, inverse: bool = False) -> Tensor:
    """Orthonormal discrete cosine transform (DCT-II) of (B, C, X, Y, Z) along its grid, or the way back."""
    for axis in (2, 3, 4):
        size = image.shape[axis]
        at = torch.arange(size, dtype=torch.float64)
        waves = (math.pi / size * (at + 0.5)[None] * at[:, None]).cos() * (2 / size) ** 0.5
        waves[0] /= 2**0.5
        matrix = (waves.T if inverse else waves).to(image)
        image = torch.tensordot(image, matrix, dims=([axis], [1])).movedim(-1, axis)
    return image


class GeneratorFlow(nn.Module):
    """Velocity of a normalised latent on the path of `medldm.diffusion.objective`, given what is asked for.

    It is that of a Gaussian, plus what a network adds.

    Parameters
    ----------
    config : of the generator
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        levels = len(config.flow)
        self.levels = levels
        self.conditions = Conditions(config)
        self.gaussian = GaussianVelocity(config)
        self.network = DiffusionModelUNet(
            spatial_dims=3,
            # Where a latent lies is told: anatomy has its place, convolutions do not know it.
            in_channels=config.latent_channels + 3,
            out_channels=config.latent_channels,
            num_res_blocks=(config.flow_blocks,) * levels,
            channels=config.flow,
            attention_levels=(False,) + (True,) * (levels - 1),
            norm_num_groups=GROUPS,
            num_head_channels=32,
            with_conditioning=True,
            cross_attention_dim=config.token,
        )

    def forward(self, z: Tensor, time: Tensor, indices: Tensor) -> Tensor:
        """(B, C, ...) velocity.

        Parameters
        ----------
        z : (B, C, ...) between noise (time 0) and latent (time 1)
        time : (B,) in [0, 1]
        indices : (B, 4) of `Conditions.indices`
        """
        step = 2 ** (self.levels - 1)
        pads = [pad for size in reversed(z.shape[2:]) for pad in (0, -size % step)]
        places = torch.meshgrid(*(torch.linspace(-1, 1, size, device=z.device) for size in z.shape[2:]), indexing="ij")
        where = torch.stack(places).to(z)[None].expand(len(z), -1, -1, -1, -1)
        padded = F.pad(torch.cat([z, where], 1), pads, mode="replicate") if any(pads) else torch.cat([z, where], 1)
        velocity: Any = self.network(padded, time * TIME_GAIN, context=self.conditions(indices))
        x, y, depth = z.shape[2:]
        inside: Tensor = self.gaussian(z.float(), time) + velocity[..., :x, :y, :depth].float()
        return inside


def _place(word: str, known: tuple[str, ...]) -> float:
    """1 and up for a word of a list, 0 for one that is not in it."""
    return float(known.index(word) + 1) if word in known else 0.0


def _over(values: Tensor) -> Tensor:
    """(C,) or (C, X, Y, Z) values over (B, C, X, Y, Z)."""
    return values.reshape(1, -1, 1, 1, 1) if values.ndim == 1 else values[None]
