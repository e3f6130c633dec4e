"""The number format that networks compute in; decided here for restoration and training alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional as F

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Time of a convolution in bf16 over its time in fp32. Measured were 0.7 with AVX512-BF16, 2.1 with AVX-512 alone and 40
# with AVX2; the threshold is far from all of them.
SLOWEST = 1.3
ROUNDS = 8
CERTAIN = 8.0  # a ratio that no other job on the machine explains: three rounds are enough
X86 = ("x86_64", "x86")
AMPERE = (8, 0)  # the first NVIDIA generation that computes in bf16; older ones imitate it


def pick_precision(wanted: str, device: str) -> torch.dtype:
    """Number format of the network: bf16 where the machine computes in it, else fp32.

    Parameters
    ----------
    wanted : ``"auto"`` or a name in `PRECISIONS`
    device : torch device
    """
    if wanted != "auto":
        return PRECISIONS[wanted]
    return torch.bfloat16 if computes_in_bf16(device) else torch.float32


def autocast(device: torch.device | str) -> torch.autocast:
    """Training in bf16 where the machine computes in it; elsewhere a context that changes nothing.

    Parameters
    ----------
    device : torch device
    """
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=computes_in_bf16(device))


def full_precision(device: torch.device | str) -> torch.autocast:
    """fp32, also inside of `autocast`.

    Parameters
    ----------
    device : torch device
    """
    return torch.autocast(torch.device(device).type, enabled=False)


def computes_in_bf16(device: torch.device | str) -> bool:
    """Whether bf16 saves time on a device.

    An x86 CPU names its abilities. Others, and every CPU under a PyTorch that cannot ask (before 2.11), are measured
    once a process, for some 50 ms.

    Parameters
    ----------
    device : torch device
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
    if device.type != "cpu":
        return False
    abilities = cpu_abilities()
    if abilities.get("architecture") in X86:
        return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
    return bf16_to_fp32() <= SLOWEST


def cpu_abilities() -> Mapping[str, Any]:
    """What PyTorch knows of this CPU, by name; empty where it cannot ask."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return ask() if ask else {}


@lru_cache(maxsize=1)
def bf16_to_fp32() -> float:
    """Time that this CPU takes for a convolution in bf16, as a share of the time in fp32."""
    images = {dtype: torch.ones(1, 32, 32, 32, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    kernels = {dtype: torch.ones(32, 32, 3, 3, dtype=dtype) for dtype in images}
    fastest = dict.fromkeys(images, float("inf"))
    with torch.inference_mode(), full_precision("cpu"):
        # In turns, and the fastest of each, so that another job on the machine slows both or none. The first round
        # prepares the kernels.
        for trial in range(ROUNDS + 1):
            if trial > 3 and fastest[torch.bfloat16] > CERTAIN * fastest[torch.float32]:
                break
            for dtype, image in images.items():
                begun = time.perf_counter()
                F.conv2d(image, kernels[dtype], padding=1)
                if trial:
                    fastest[dtype] = min(fastest[dtype], time.perf_counter() - begun)
    return fastest[torch.bfloat16] / fastest[torch.float32]
