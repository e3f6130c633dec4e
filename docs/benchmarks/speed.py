"""Seconds and peak memory of our sets and of BM4D on this machine; writes speed.csv and speed.md beside itself.

Run on an otherwise idle machine: `python docs/benchmarks/speed.py`. Every line has a process of its own, so that peak
memory is its own. The shipped scan is cropped to its head and stretched to each size; nothing of it is air that could
be skipped but what lies in the corners of a head. BM4D (extra `baselines`) restores the same array, for 4 minutes.
One line is measured while another process restores scans in a loop, with as many threads as the cores. Operations of
the regression network (a multiplication and an addition are two) are counted by PyTorch; the peak of the chip is what
a product of two large matrices reaches in the same number format.
`--ct` adds a CT of 512 x 512 x 800 voxels, which takes minutes.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medldm.system import cores, set_thread_defaults

sys.path.insert(0, str(Path(__file__).parents[1]))
from wrapping import wrapped

SCORES = Path(__file__).with_suffix(".csv")
COLUMNS = (
    "command", "machine", "what", "model", "voxels", "loading_s", "restoring_s", "network", "kflop_per_voxel", "gflops",
    "peak_gflops", "peak_gb", "note",
)  # fmt: skip
PATIENCE_S = 240  # for BM4D
LARGE = (256, 256, 180)
BESIDE = "denoise beside another job"
ALONE = "denoise without spread"
RESEARCH = str(Path(__file__).parents[1] / "training" / "flow" / "brain-mri-2d-flow.json")  # no set ships a flow
CT = (512, 512, 800)
LINES = (
    ("denoise", "auto", (128, 128, 90)),
    ("denoise", "auto", (192, 192, 120)),
    ("denoise", "auto", LARGE),
    ("denoise", "brain-mri-2d-fast", LARGE),
    ("super-resolve", "auto", LARGE),
    ("super-resolve", "brain-mri-2d-fast", LARGE),
    (ALONE, "auto", LARGE),
    ("sample", RESEARCH, LARGE),
    ("bm4d", "", LARGE),
    (BESIDE, "auto", LARGE),
)
# Measured by others, on machines that we have not: CPU, model, voxels, seconds, source.
ELSEWHERE = (
    ("AVX2", "brain-mri-2d", "160 x 213 x 230", 71, "issue 25"),
    ("AVX2", "brain-mri-2d-fast", "160 x 213 x 230", 25, "issue 25"),
)


def head(shape: tuple[int, ...]) -> Any:
    """The sample's head, stretched to a shape, with 5 % Rician noise; (X, Y, Z) float32."""
    from scipy import ndimage

    import medldm
    from medldm.samples import sample_path

    image = medldm.read(sample_path("mr")).voxels.astype(np.float32)
    inside = np.argwhere(image > 0.1 * image.max())
    image = image[tuple(slice(a, b) for a, b in zip(inside.min(0), inside.max(0) + 1, strict=True))]
    image = ndimage.zoom(image, [new / old for new, old in zip(shape, image.shape, strict=True)], order=1)
    draw, sigma = np.random.default_rng(0), 0.05 * image.max()
    return np.hypot(image + draw.normal(0, sigma, shape), draw.normal(0, sigma, shape)).astype(np.float32)


def chest(shape: tuple[int, ...]) -> Any:
    """The CT sample, tiled to a shape; (X, Y, Z) int16 HU."""
    import medldm
    from medldm.samples import sample_path

    crop = medldm.read(sample_path("ct")).voxels
    return np.tile(crop, [math.ceil(n / m) for n, m in zip(shape, crop.shape, strict=True)])[
        tuple(slice(n) for n in shape)
    ].astype(np.int16)


def one(verb: str, model: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Load, restore once, in this process."""
    if verb == BESIDE:
        with another_job():
            return one("denoise", model, shape)
    begun = time.monotonic()
    import medldm
    from medldm.benchmark.optional_baselines import bm4d_plain
    from medldm.inference.networks import Networks, load_networks
    from medldm.models.precision import pick_precision
    from medldm.models.residual import ResidualFlow
    from medldm.system import peak_memory_mb
    from medldm.zoo import best, card

    modality = "ct" if shape == CT else "mr"
    if verb != "bm4d":
        chosen = best(modality) if model == "auto" else card(model)
        networks = load_networks(chosen, precision=pick_precision("auto", "cpu"))
        if verb == ALONE:
            networks.spread = None
    loaded = time.monotonic() - begun
    inside = watched(Networks, ("estimate", "estimate_with_spread"))
    flowing = watched(ResidualFlow, ("forward",))
    scan = chest(shape) if modality == "ct" else head(shape)
    begun = time.monotonic()
    if verb == "bm4d":
        brightest = float(np.percentile(scan[scan > 0.1 * scan.max()], 99.5))
        bm4d_plain(scan / brightest, 0.05, "rician")
        name = "bm4d"
    elif verb == "super-resolve":
        thick = scan[:, :, 1::4]
        restored = medldm.super_resolve(thick, spacing=1.0, affine=np.diag([1, 1, 4.0, 1]), model=model)
        name = restored.history[-1].facts["model"]
    else:
        spacing = [0.75, 0.75, 1.5] if modality == "ct" else [1, 1, 1]
        noise: dict[str, Any] = {"noise": 20.0} if modality == "ct" else {"noise": 0.05}
        noise |= {"fidelity": 0.0} if verb == "sample" else {}
        restored = medldm.denoise(scan, affine=np.diag([*spacing, 1.0]), model=model, modality=modality, **noise)
        name = restored.history[-1].facts["model"]
    seconds = time.monotonic() - begun
    memory = peak_memory_mb()
    busy = sum(call.seconds for call in (*inside, *flowing))
    measured = {"model": name, "loading": loaded, "seconds": seconds, "network": busy / seconds, "memory": memory}
    if verb == "bm4d":
        return measured
    flops = operations(networks)
    done = flops * sum(call.voxels for call in inside) / max(1e-9, sum(call.seconds for call in inside))
    return measured | {"kflop": flops / 1e3, "gflops": done / 1e9, "peak": peak_flops() / 1e9}


class Call(NamedTuple):
    """Seconds that a call took, and voxels that it was given."""

    seconds: float
    voxels: int


def operations(networks: Any) -> float:
    """Floating-point operations of the regression network with its spread head, per voxel of one orientation."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config, edge = networks.config, 64
    inputs = torch.zeros(1, config.measured_channels, *(edge,) * config.spatial_dims)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        (networks.estimate if networks.spread is None else networks.estimate_with_spread)(inputs)
    return float(counter.get_total_flops() / edge**config.spatial_dims)


def peak_flops() -> float:
    """Operations a second of a product of two large matrices, in the format that networks compute in; best of five."""
    import torch

    from medldm.models.precision import pick_precision

    edge = 2048
    left, right = (torch.ones(edge, edge, dtype=pick_precision("auto", "cpu")) for _ in range(2))
    seconds = []
    for _ in range(5):
        begun = time.monotonic()
        left @ right
        seconds.append(time.monotonic() - begun)
    return 2 * edge**3 / min(seconds)


@contextmanager
def another_job() -> Iterator[None]:
    """A process that restores all the time, once it has begun to."""
    job = subprocess.Popen([sys.executable, __file__, "--other-job"], stdout=subprocess.PIPE, text=True)
    try:
        assert job.stdout is not None
        if not job.stdout.readline():
            raise RuntimeError("the other job has ended")
        yield
    finally:
        job.kill()
        job.wait()


def restore_all_the_time() -> None:
    """The other job: says so once its model is loaded, and is ended from outside."""
    one("denoise", "auto", LINES[0][2])
    print("at work", flush=True)
    while True:
        one("denoise", "auto", LARGE)


def abilities() -> str:
    """The vector instructions of this CPU that matter here, and what networks compute in for that reason."""
    import torch

    from medldm.models.precision import cpu_abilities, pick_precision

    known = cpu_abilities()
    names = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16", "avx512_f": "AVX-512", "avx2": "AVX2"}
    best = next((name for key, name in names.items() if known.get(key)), torch.backends.cpu.get_cpu_capability())
    return f"{best}, computing in {'bf16' if pick_precision('auto', 'cpu') == torch.bfloat16 else 'fp32'}"


def watched(kind: Any, names: tuple[str, ...]) -> list[Call]:
    """Every call of some methods from now on; they must not call each other."""
    calls: list[Call] = []

    def timed(method: Any) -> Any:
        def call(owner: Any, given: Any, *args: Any) -> Any:
            begun = time.monotonic()
            try:
                return method(owner, given, *args)
            finally:
                calls.append(Call(time.monotonic() - begun, given[:, 0].numel()))

        return call

    for name in names:
        setattr(kind, name, timed(getattr(kind, name)))
    return calls


def main(lines: tuple[tuple[str, str, tuple[int, ...]], ...]) -> None:
    """All lines; the table."""
    rows = []
    environment = dict(os.environ)
    set_thread_defaults(environment)
    for verb, model, shape in lines:
        line = {"what": "denoise" if verb == "bm4d" else verb, "voxels": " x ".join(map(str, shape))}
        if verb == "bm4d" and importlib.util.find_spec("bm4d") is None:
            rows.append(line | {"model": "BM4D", "note": "not run: not installed"})
            continue
        command_line = [sys.executable, __file__, verb, model, *map(str, shape)]
        patience = PATIENCE_S if verb == "bm4d" else None
        try:
            # As the command line sets it; torch reads it when it is loaded.
            done = subprocess.run(
                command_line, env=environment, capture_output=True, text=True, check=True, timeout=patience
            )
        except subprocess.TimeoutExpired:
            rows.append(line | {"model": "BM4D", "note": f"not done after {patience} s"})
            continue
        measured = json.loads(done.stdout.splitlines()[-1])
        seconds: dict[str, Any] = {
            "loading_s": round(measured["loading"], 2),
            "restoring_s": round(measured["seconds"], 2),
        }
        if verb != "bm4d":
            seconds["network"] = round(100 * measured["network"])
            seconds |= {"kflop_per_voxel": round(measured["kflop"]), "gflops": round(measured["gflops"])}
            seconds["peak_gflops"] = round(measured["peak"])
        rows.append(line | seconds | {"model": measured["model"], "peak_gb": round(measured["memory"] / 1024, 3)})
        print(rows[-1], flush=True)
    command = f"python docs/benchmarks/speed.py{' --ct' if len(lines) > len(LINES) else ''}"
    machine = f"{cores()} cores, {platform.machine()} with {abilities()}"
    with SCORES.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({"command": command, "machine": machine, **row} for row in rows)
    Path(__file__).with_suffix(".md").write_text(table(read()))


def read() -> list[dict[str, str]]:
    """What was measured last."""
    with SCORES.open(newline="") as lines:
        return list(csv.DictReader(lines))


def table(rows: list[dict[str, str]]) -> str:
    """The measurements as Markdown."""
    measured = BESIDE in {row["what"] for row in rows}
    missing = [] if measured else ["Restoring beside another job was not measured yet.", ""]
    lines = [
        f"`{rows[0]['command']}` on {rows[0]['machine']}: one answer with its spread, but for one line; `sample`: one "
        "sample of four steps while denoising, by the flow of record 0055.",
        "",
        *missing,
        "| what | model | voxels | million | loading, s | restoring, s | of it network, % | s per million | peak, GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        million = math.prod(map(int, row["voxels"].split(" x "))) / 1e6
        line = f"| {row['what']} | {row['model']} | {row['voxels']} | {million:.1f} "
        if row["note"]:
            lines.append(f"{line}| {row['note']} | | | | |")
            continue
        seconds = float(row["restoring_s"])
        lines.append(
            f"{line}| {float(row['loading_s']):.1f} | {seconds:.1f} | {row['network']} | {seconds / million:.1f} "
            f"| {float(row['peak_gb']):.2f} |"
        )
    lines += arithmetic(rows)
    lines += [
        "",
        "A CPU without bf16 arithmetic (AVX2, or AVX-512 without BF16) computes in fp32, which is slower. Measured by "
        "others:",
        "",
        "| what | model | voxels | CPU | restoring, s | source |",
        "|---|---|---|---|---|---|",
        *(f"| denoise | {model} | {voxels} | {cpu} | {seconds} | {source} |"
          for cpu, model, voxels, seconds, source in ELSEWHERE),
    ]  # fmt: skip
    return wrapped("\n".join(lines))


def arithmetic(rows: list[dict[str, str]]) -> list[str]:
    """How much is computed, and how near to the peak of the chip; nothing of measurements that did not count it."""
    counted = [row for row in rows if row.get("gflops")]
    if not counted:
        return []
    lines = [
        "",
        "Operations of the regression network, per voxel of each of its orientations, and how fast they were done, "
        "beside the product of two large matrices:",
        "",
        "| what | model | voxels | thousand operations a voxel | billion a second | of matrices, % |",
        "|---|---|---|---|---|---|",
    ]
    for row in counted:
        share = 100 * float(row["gflops"]) / float(row["peak_gflops"])
        lines.append(
            f"| {row['what']} | {row['model']} | {row['voxels']} | {row['kflop_per_voxel']} | {row['gflops']} "
            f"| {share:.0f} |"
        )
    return lines


if __name__ == "__main__":
    if "--other-job" in sys.argv:
        restore_all_the_time()
    elif len(sys.argv) > 2:
        print(json.dumps(one(sys.argv[1], sys.argv[2], tuple(map(int, sys.argv[3:])))))
    else:
        main((*LINES, ("denoise", "auto", CT)) if "--ct" in sys.argv else LINES)
