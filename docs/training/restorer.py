"""Train the regression network from packed scans, on whatever device there is.

usage: python docs/training/restorer.py OUT --archives A.zip [B.zip ...] [--init WEIGHTS] [--minutes M] [--batch N]

`--init` takes a safetensors file whose tensors begin with ``unet.``, as those of a shipped set do.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medldm.inference.conditioning import centre_plane, to_stack
from medldm.models.blocks import dense_format
from medldm.models.unet import build_unet
from medldm.settings import Architecture
from medldm.training.archive import read_archive
from medldm.training.batches import measure, plane_channels
from medldm.training.corpus import Corpus, augment
from medldm.training.data import Packed, balance
from medldm.training.device_trainer import DeviceTrainer
from medldm.training.examples import MARGIN
from medldm.training.losses import root_mean_square
from medldm.training.validation import Cube, cubes, psnr

CONTEXT = 9
ARCHITECTURE = Architecture(context=CONTEXT, unet=(32, 64, 128, 256))
THIN_ONLY = ("thick4", "gap4")


def cases_by_scanner(scans: list[Packed]) -> list[tuple[str, Cube]]:
    """Validation cubes of every scan, each with its row: task and the first letters of the scan's name."""
    cases = []
    for scan in scans:
        family = scan.file.split("_")[0].split("-")[0]
        for case in cubes([scan], ARCHITECTURE, per_task=1):
            if scan.isotropic or (case.task not in THIN_ONLY and scan.slice_axis == 2):
                cases.append((f"{case.task} {family}", case))
    return cases


def psnr_by_row(network: nn.Module, cases: list[tuple[str, Cube]], device: torch.device) -> dict[str, float]:
    """PSNR of each row in one orientation, dB, and the mean of all rows."""
    rows: dict[str, list[float]] = {}
    for row, case in cases:
        guess = centre_plane(case.inputs, ARCHITECTURE) + network(case.inputs.to(device)).float().cpu()
        rows.setdefault(row, []).append(psnr(to_stack(guess), case.clean))
    scores = {row: sum(values) / len(values) for row, values in sorted(rows.items())}
    return {"mean": sum(scores.values()) / len(scores), **scores}


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--archives", type=Path, nargs="+", required=True)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    started = time.monotonic()
    scans = read_archive(*options.archives)
    corpus = Corpus(balance(scans["train"]), device)
    cases = cases_by_scanner(scans.get("val", scans["train"][:1]))
    network: Any = build_unet(ARCHITECTURE)
    if options.init:
        weights = {
            k.removeprefix("unet."): v.float() for k, v in load_file(options.init).items() if k.startswith("unet.")
        }
        network.load_state_dict(weights)
    network = network.to(device, memory_format=torch.channels_last)
    logging.info("%d scans on %s after %.1f s", len(scans["train"]), device, time.monotonic() - started)
    inner = slice(MARGIN, MARGIN + options.patch)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        blocks = corpus.draw(options.batch, (options.patch + 2 * MARGIN, options.patch, CONTEXT), generator)
        blocks = blocks._replace(clean=augment(blocks.clean, generator))
        channels = plane_channels(measure(blocks, generator), CONTEXT)
        return dense_format(channels[:, :, inner]), blocks.clean[:, None, inner, :, CONTEXT // 2]

    def loss_of(network: nn.Module, batch: Any) -> Tensor:
        inputs, clean = batch
        return root_mean_square(centre_plane(inputs, ARCHITECTURE) + network(inputs), clean).mean()

    trainer = DeviceTrainer(
        network,
        options.out,
        minutes=options.minutes,
        learning_rate=options.rate,
        validate=lambda network: psnr_by_row(network, cases, device),
        validate_s=150,
    )
    if trainer.steps == 0:
        trainer.started = time.monotonic()
        trainer.score()
    weights = trainer.run(draw, loss_of, options.seed)
    save_file(
        {f"unet.{name}": value.contiguous() for name, value in weights.items()}, options.out / "weights.safetensors"
    )


if __name__ == "__main__":
    main()
