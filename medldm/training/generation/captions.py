"""Train words and latents against each other, so that a scan can be compared with a description."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medldm.data.description import SPELLINGS, Description
from medldm.models.generator import Autoencoder
from medldm.models.text_encoder import Captions
from medldm.training.generation.stages import Stage, latent_pool
from medldm.training.stages.stage import dense

NOISE = 0.4  # standard deviation of the noise on latents, so that the encoder does not learn scans by heart
YEARS = ("{} years", "{} years old", "{}-year-old", "age {}", "aged {}", "{} y")


def train_captions(stage: Stage) -> None:
    """Contrastive training of text and latent encoder: texts are drawn anew from each scan's description."""
    network = Autoencoder(stage.config)
    network.load_state_dict(stage.finished("autoencoder"))
    network = dense(network).to(stage.device).eval().requires_grad_(False)
    pool, scan = latent_pool(network, stage.corpus, stage.plan.seed)
    learned, judged = stage.corpus.descriptions_of(train=True), stage.corpus.descriptions_of(train=False)
    with torch.no_grad():
        held_out = torch.cat([network.normalised(v[None].to(stage.device)) for v in stage.corpus.volumes(train=False)])

    def draw(generator: torch.Generator) -> tuple[Tensor, list[Description], random.Random]:
        chosen = torch.randint(len(pool), (stage.batch,), generator=generator, device=generator.device)
        latent = pool[chosen].float()
        latent = latent + NOISE * torch.randn(latent.shape, generator=generator, device=latent.device)
        chance = random.Random(int(torch.randint(2**31, (), generator=generator, device=generator.device)))
        return latent, [learned[int(number)] for number in scan[chosen]], chance

    def loss_of(network: nn.Module, batch: Any) -> Tensor:
        latent, descriptions, chance = batch
        return contrastive_loss(network, latent, descriptions, chance)

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Captions)
        right, chance = retrieval_accuracy(network, held_out, judged)
        return {"right description %": 100 * right, "by chance %": 100 * chance}

    trainer = stage.trainer(Captions(stage.config), validate)
    stage.keep(trainer.run(draw, loss_of, stage.batch), trainer.state)


def contrastive_loss(
    network: nn.Module, latent: Tensor, descriptions: list[Description], chance: random.Random
) -> Tensor:
    """Cross entropy of finding each scan's text among those of the batch, and each text's scan.

    Descriptions that are the same are all right: with few words many people share one.
    """
    same = torch.tensor([[one == other for other in descriptions] for one in descriptions], device=latent.device)
    target = same.float() / same.float().sum(1, keepdim=True)
    likeness = network(latent, [paraphrase(description, chance) for description in descriptions])
    return (F.cross_entropy(likeness, target) + F.cross_entropy(likeness.T, target)) / 2


def paraphrase(description: Description, chance: random.Random) -> str:
    """A text that says a description, in one of many ways.

    Parameters
    ----------
    description : to say
    chance : source of randomness
    """
    parts = []
    for name in ("contrast", "region", "sex"):
        if value := getattr(description, name):
            parts.append(chance.choice(SPELLINGS[name][value]))
    if description.age is not None:
        parts.append(chance.choice(YEARS).format(round(description.age)))
    chance.shuffle(parts)
    return chance.choice((", ", " ")).join(parts)


def retrieval_accuracy(network: Captions, latents: Tensor, descriptions: list[Description]) -> tuple[float, float]:
    """How often the likeliest of all different descriptions is a scan's own, and how often by chance.

    Parameters
    ----------
    network : trained
    latents : (N, C, ...) normalised, of people it never saw
    descriptions : of each
    """
    different = list(dict.fromkeys(descriptions))
    with torch.no_grad():
        chosen = network(latents, [one.text for one in different]).argmax(1).tolist()
    right = sum(different[place] == own for place, own in zip(chosen, descriptions, strict=True))
    return right / len(descriptions), 1 / len(different)
