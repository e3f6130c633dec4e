"""Orders carried out in this process, with a tiny untrained pipeline: no viewer, no second process."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import phantoms
import phantoms_dicom
import pytest
from napari.layers import Image
from napari_medldm import jobs, previews, samples
from napari_medldm.jobs import Order, carry_out
from napari_medldm.layers import series_data, snapshot
from napari_medldm.regions import Drawn, current_slice
from napari_medldm.writers import write_image

from medldm.data.volume import Volume
from medldm.errors import MedldmError, ResourceError
from medldm.io import read

SHAPE = (32, 40, 20)


def quiet(done, total, what):
    pass


def slice_of(scan, index):
    """A slice across z, as the screen shows it."""
    return current_slice(replace(scan, on_screen={0: index}))


def taken(volume, as_layer):
    return snapshot(as_layer(volume))


def order(verb, scan, model, **more):
    options = {"model": str(model), "device": "cpu", **more.pop("options", {})}
    return Order(verb, scan, options, **more).loaded()


@pytest.fixture
def scan(as_layer):
    return taken(phantoms.phantom(SHAPE), as_layer)


def test_denoising_gives_a_layer_on_the_same_grid(as_layer, tiny_model):
    scan = taken(phantoms.oblique_phantom(SHAPE), as_layer)
    messages = []
    outcome = carry_out(order("denoise", scan, tiny_model), lambda *news: messages.append(news))
    data, arguments, kind = outcome.layers[0]
    assert (kind, data.shape) == ("image", (20, 40, 32))
    assert np.allclose(snapshot(Image(data, **arguments)).affine, scan.affine, atol=1e-4)
    assert messages[-1][0] == messages[-1][1]
    assert outcome.text.startswith("cpu, ")
    assert arguments["metadata"]["provenance"][-1].model == "tiny-2d"


def test_samples_and_difference_give_layers_on_the_grid_of_the_result(as_layer, tiny_model):
    scan = taken(phantoms.phantom((32, 40, 8), spacing=(1, 1, 4)), as_layer)
    outcome = carry_out(
        order(
            "super-resolve", scan, tiny_model, options={"samples": 2, "spacing": 2.0}, difference=True, uncertainty=True
        ),
        quiet,
    )
    names = [arguments["name"] for _, arguments, _ in outcome.layers]
    kinds = ("", "standard deviation (grey values), ", "difference (grey values), ")
    assert names == [f"{kind}phantom super-resolved" for kind in kinds]
    assert {data.shape for data, _, _ in outcome.layers} == {(16, 40, 32)}
    assert (outcome.layers[1][0] >= 0).all()
    # Outermost thin slices lie between slice centre and edge, and still have something to differ from.
    assert np.isfinite(outcome.layers[2][0]).all()


def test_uncertainty_and_difference_of_integer_dicom_are_saved_with_fractions_and_signs(as_layer, tiny_model, tmp_path):
    voxels = phantoms.brain(SHAPE).astype(np.uint16)
    scan = taken(read(phantoms_dicom.write_series(tmp_path / "s", voxels, signed=False)), as_layer)
    options = {"noise": 0.05, "samples": 2, "steps": 4}
    outcome = carry_out(order("denoise", scan, tiny_model, options=options, difference=True, uncertainty=True), quiet)
    for number, (data, arguments, _) in enumerate(outcome.layers[1:]):
        (path,) = write_image(str(tmp_path / f"{number}.nii.gz"), data, arguments)
        result = read(path)
        assert result.voxels.dtype == np.float32
        assert np.isclose(result.voxels.min(), data.min(), atol=1e-6)
        assert np.isclose(result.voxels.max(), data.max(), atol=1e-6)
    assert outcome.layers[2][0].min() < 0


def test_filling_keeps_measured_slices(as_layer, tiny_model):
    volume = phantoms.with_missing_slices(phantoms.phantom(SHAPE), [9, 10])
    outcome = carry_out(order("fill-slices", taken(volume, as_layer), tiny_model), quiet)
    data = outcome.layers[0][0]
    kept = [k for k in range(20) if k not in (9, 10)]
    assert np.array_equal(data[kept], volume.voxels.transpose(2, 1, 0)[kept])
    assert data[9].any()


def test_inpainting_an_outline_keeps_what_lies_outside(scan, tiny_model):
    square = np.array([[10, 15, 12], [10, 15, 20], [10, 25, 20], [10, 25, 12.0]])
    outcome = carry_out(order("inpaint", scan, tiny_model, mask=Drawn((square,), 1)), quiet)
    changed = outcome.layers[0][0] != scan.load().data
    assert changed[9:12, 15:26, 12:21].mean() > 0.9
    changed[9:12, 15:26, 12:21] = False
    assert not changed.any()


def test_the_plan_is_reported_without_torch_and_the_plan_of_a_gap_names_it(as_layer):
    scan = taken(phantoms.with_missing_slices(phantoms.phantom(SHAPE), [9]), as_layer)
    assert "1 slice is missing (9)" in carry_out(Order("plan", scan).loaded(), quiet).text
    assert carry_out(Order("missing", scan).loaded(), quiet).text == "9"


def test_the_noise_is_measured(as_layer):
    clean = phantoms.phantom((48, 56, 40))
    noisy = clean.with_voxels(phantoms.rician(clean.voxels, 60).astype(np.float32))
    assert carry_out(Order("noise", taken(noisy, as_layer)).loaded(), quiet).value == pytest.approx(0.06, abs=0.02)


@pytest.mark.parametrize("verb", ["denoise", "fill-slices", "super-resolve", "restore"])
def test_a_preview_lies_on_the_slice_it_shows(verb, as_layer, tiny_model):
    volume = phantoms.with_missing_slices(phantoms.phantom((32, 40, 24), spacing=(1, 1, 3)), [11])
    scan = taken(volume, as_layer)
    where = slice_of(scan, 11)
    outcome = carry_out(order(verb, scan, tiny_model, where=where), quiet)
    data, arguments, _ = outcome.layers[0]
    layer = Image(data, **arguments)
    thin = 3 if verb in ("super-resolve", "restore") else 1
    assert data.shape == (24 * thin, 40, 32)  # on the grid of the whole, so that one slider serves both
    computed = np.flatnonzero(np.isfinite(data).all(axis=(1, 2)))
    assert len(computed) == thin
    assert np.isnan(np.delete(data, computed, axis=0)).all()
    assert layer.data_to_world((computed[0], 0, 0))[0] == pytest.approx(33 if thin == 1 else 32)
    assert arguments["name"] == "phantom preview"
    assert layer.extent.world[0][0] == pytest.approx(0 if thin == 1 else -1)


def test_a_preview_shows_what_the_run_will_give(as_layer, tiny_model):
    # Slices this thick are seen in their own planes only, by the preview and by the run.
    scan = taken(phantoms.phantom((32, 32, 40), spacing=(1, 1, 2)), as_layer)
    options = {"noise": 0.05}
    whole = carry_out(order("denoise", scan, tiny_model, options=options), quiet).layers[0][0]
    slab = carry_out(
        order("denoise", scan, tiny_model, options=options, where=slice_of(scan, 20)),
        quiet,
    ).layers[0][0]
    assert np.abs(slab[20] - whole[20]).mean() < 1e-4 * phantoms.PEAK


@pytest.mark.parametrize("verb", ["super-resolve", "restore"])
def test_a_preview_of_a_thick_scan_takes_few_passes_and_shows_what_the_run_will_give(verb, as_layer, tiny_model):
    thin = phantoms.phantom((32, 40, 140))
    scan = taken(samples.with_thick_slices(thin), as_layer)
    cost, shown = {}, {}
    for name, more in {
        "first": {"where": slice_of(scan, 14), "fast": True},
        "refined": {"where": slice_of(scan, 14)},
        "run": {},
    }.items():
        outcome = carry_out(order(verb, scan, tiny_model, **more), quiet)
        shown[name] = outcome.layers[0][0][70:75]
        cost[name] = [int(number) for number in re.findall(r"(\d+) planes in (\d+) pass", outcome.text)[0]]
    # Every plane across the slices holds a line of the wanted slice, and only few rows of it are needed. To these come
    # the planes that tell the slice profile, which this model looks at in two directions.
    assert cost["run"] == [32 + 40, 2]
    assert cost["refined"] == [32 + 40 + 32 + previews.PROBE, 4]
    assert cost["first"] == cost["run"]
    assert np.abs(shown["refined"] - shown["run"]).mean() < 0.005 * phantoms.PEAK
    assert np.abs(shown["first"] - shown["run"]).mean() < 0.05 * phantoms.PEAK


@pytest.mark.parametrize(("fast", "slices"), [(True, 3), (False, 6)])
def test_what_a_preview_needs_of_a_thick_scan_fills_the_rows_that_planes_are_padded_to(fast, slices):
    """28 slices of 5 mm: 16 rows of 1 mm for a first look, and 32 of 140 for the slice as the run gives it."""
    volume = Volume(np.zeros((48, 48, 28), np.float32), np.diag([1, 1, 5, 1.0]))
    steps = [previews.Step("super-resolve", {"spacing": 1.0}, (0, 1))]
    for wanted in (0, 13, 14, 27):
        _, _, (low, high) = previews.needed(((0, 48), (0, 48), (wanted, wanted + 1)), volume, 2, steps, fast=fast)
        assert low <= max(0, wanted - slices // 3)
        assert high >= min(28, wanted + 1 + slices // 3)
        assert high - low <= slices


def test_a_preview_is_scaled_as_its_scan_and_takes_the_profile_of_it(as_layer, tiny_model, monkeypatch):
    scan = taken(samples.with_thick_slices(phantoms.phantom((32, 40, 140))), as_layer)
    seen = []
    once = jobs._run
    monkeypatch.setattr(jobs, "_run", lambda verb, volume, *more: seen.append(volume) or once(verb, volume, *more))
    outcome = carry_out(order("super-resolve", scan, tiny_model, where=slice_of(scan, 3)), quiet)
    strip, part = seen
    assert strip.shape == (32, previews.PROBE, 28)
    assert (strip.stored.scale, strip.stored.slice_profile) == (part.stored.scale, "")
    assert part.stored.slice_profile in ("gaussian", "rect")
    frame = outcome.layers[0][1]["metadata"]["medldm"]
    assert (frame.stored.scale, frame.stored.slice_profile) == (None, "")


def test_named_slices_are_counted_in_the_preview_as_in_the_scan(scan, tiny_model):
    far = order("fill-slices", scan, tiny_model, options={"missing": "1"}, where=slice_of(scan, 17))
    with pytest.raises(MedldmError, match="No missing slice lies near"):
        carry_out(far, quiet)
    near = order(
        "fill-slices",
        scan,
        tiny_model,
        options={"missing": "16"},
        where=slice_of(scan, 16),
    )
    shown = carry_out(near, quiet).layers[0][0][16]
    assert np.isfinite(shown).all()
    assert not np.array_equal(shown, scan.load().data[16])


def test_all_volumes_of_a_series_are_restored(tiny_model):
    data, arguments, _ = series_data([phantoms.phantom(SHAPE)] * 2)
    scan = snapshot(Image(data, **arguments))
    messages = []
    outcome = carry_out(order("denoise", scan, tiny_model, every=True), lambda *news: messages.append(news[:2]))
    assert outcome.layers[0][0].shape == (2, 20, 40, 32)
    assert messages[-1][0] == messages[-1][1]
    assert [done for done, _ in messages] == sorted(done for done, _ in messages)


@pytest.mark.parametrize("shape", [(1, 24, 20), (5, 5, 5), (3, 40, 17)])
def test_tiny_scans_are_restored(shape, tiny_model):
    data = phantoms.brain(shape[::-1]).transpose(2, 1, 0) + np.random.default_rng(0).random(shape)
    outcome = carry_out(order("denoise", snapshot(Image(data)), tiny_model), quiet)
    assert outcome.layers[0][0].shape == shape
    assert np.isfinite(outcome.layers[0][0]).all()


def test_integers_are_restored_as_numbers(as_layer, tiny_model):
    volume = phantoms.phantom(SHAPE)
    scan = taken(Volume(volume.voxels.astype(np.uint16), volume.affine), as_layer)
    outcome = carry_out(order("denoise", scan, tiny_model), quiet)
    assert np.corrcoef(outcome.layers[0][0].ravel(), scan.load().data.ravel())[0, 1] > 0.9


def test_out_of_memory_is_met_with_smaller_tiles_and_then_with_a_sentence(scan, monkeypatch):
    from medldm import tasks

    tried, messages = [], []

    def greedy(verb, volume, settings, **_):
        tried.append(settings.tile)
        if settings.tile is None or settings.tile > enough:
            raise ResourceError("too much")
        return volume

    monkeypatch.setattr(tasks, "run", greedy)
    enough = 128
    carry_out(Order("denoise", scan).loaded(), lambda *news: messages.append(news[2]))
    assert tried == [None, 256, 128]
    assert messages == ["out of memory, trying tiles of 256 voxels", "out of memory, trying tiles of 128 voxels"]
    enough = 0
    with pytest.raises(ResourceError, match="tiles of 64"):
        carry_out(Order("denoise", scan).loaded(), quiet)


@pytest.mark.parametrize(
    "problem", [RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()], ids=["torch", "numpy"]
)
def test_memory_that_runs_out_outside_of_the_network_is_reported_too(problem, scan, monkeypatch):
    from medldm import tasks

    def greedy(*_, **__):
        raise problem

    monkeypatch.setattr(tasks, "run", greedy)
    with pytest.raises(ResourceError, match="needs more memory than is free"):
        carry_out(Order("denoise", scan).loaded(), quiet)


def test_other_errors_of_torch_are_not_taken_for_lack_of_memory(scan, monkeypatch):
    from medldm import tasks

    def broken(*_, **__):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(tasks, "run", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        carry_out(Order("denoise", scan).loaded(), quiet)


def test_missing_weights_are_named(scan, tmp_path):
    model = phantoms.tiny_model(tmp_path / "model")
    next(model.parent.glob("*.safetensors")).unlink()
    with pytest.raises(MedldmError, match="weights of tiny-2d are missing"):
        carry_out(order("denoise", scan, model), quiet)


def test_a_bug_becomes_a_sentence():
    problem = jobs.sentence(KeyError("x"))
    assert isinstance(problem, MedldmError)
    assert "please report" in str(problem)


CROWDED = """
import resource, sys
import phantoms, torch
from napari.layers import Image
from napari_medldm.jobs import Order, carry_out, sentence
from napari_medldm.layers import layer_data, snapshot

def denoised(data, arguments, _):
    order = Order("denoise", snapshot(Image(data, **arguments)), {"model": sys.argv[1], "device": "cpu"})
    try:
        return carry_out(order.loaded(), lambda *_: None).text
    except Exception as problem:
        return str(sentence(problem))

small, large = (layer_data(phantoms.phantom(shape)) for shape in ((64, 64, 4), (400, 400, 6)))
print(denoised(*small))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
print(denoised(*large))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(denoised(*large))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_memory_that_really_runs_out_is_reported_and_the_next_run_works(tiny_model):
    # Where the smallest allocation fails, native code below PyTorch may crash; such a process says nothing of ours.
    for _ in range(6):
        process = subprocess.run(
            [sys.executable, "-c", CROWDED, str(tiny_model)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if process.returncode == 0:
            break
    assert process.returncode == 0, process.stderr
    before, crowded, after = process.stdout.splitlines()
    assert before.startswith("cpu, ")
    assert "needs more memory than is free, even in tiles of 64" in crowded
    assert after.startswith("cpu, ")


@pytest.mark.slow
def test_one_answer_of_the_shipped_set_comes_with_deviation_and_interval(as_layer):
    """Of four slices too, which are looked at in their own planes only."""
    voxels = phantoms.rician(phantoms.brain((48, 48, 9))[..., 2:6], 60).astype(np.float32)
    scan = taken(Volume(voxels, np.diag([1, 1, 8, 1.0]), name="stack"), as_layer)
    outcome = carry_out(order("denoise", scan, "brain-mri-2d", options={"noise": 0.05}, uncertainty=True), quiet)
    names = ["stack denoised"]
    for kind in ("standard deviation", "half width of the 90 % interval"):
        names.append(f"{kind} (grey values), stack denoised")
    assert [arguments["name"] for _, arguments, _ in outcome.layers] == names
    assert all(data.max() > 0 for data, _, _ in outcome.layers)
