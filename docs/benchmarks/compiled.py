"""Does torch.compile pay? `python docs/benchmarks/compiled.py`: a batch of planes of the best brain-MRI set, both ways.

Prints seconds a batch as it is (bf16 where the machine has it, channels last), seconds to compile, seconds a batch
compiled, and after how many batches compiling has paid for itself. Run on an otherwise idle machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from medldm.inference.networks import load_networks
from medldm.models.precision import pick_precision
from medldm.zoo import best

BATCH, PLANE, TURNS = 4, 256, 8


def seconds_of(predict: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, turns: int) -> float:
    """Wall clock of a call, mean over several."""
    with torch.inference_mode():
        begun = time.monotonic()
        for _ in range(turns):
            predict(inputs)
    return (time.monotonic() - begun) / turns


def main() -> None:
    """Measure and print."""
    chosen = best("mr", verb="denoise")
    networks = load_networks(chosen, precision=pick_precision("auto", "cpu"))
    inputs = torch.rand(BATCH, networks.config.measured_channels, PLANE, PLANE)
    seconds_of(networks.estimate, inputs, 2)
    eager = seconds_of(networks.estimate, inputs, TURNS)
    compiled = torch.compile(networks.estimate)
    first = seconds_of(compiled, inputs, 1)
    fast = seconds_of(compiled, inputs, TURNS)
    pays = f"pays after {first / (eager - fast):.0f} batches" if fast < eager else "never pays"
    print(
        f"{chosen.name}, {BATCH} planes of {PLANE} x {PLANE}: {eager:.3f} s as it is, {first:.0f} s to compile, "
        f"{fast:.3f} s compiled; {pays}"
    )


if __name__ == "__main__":
    main()
