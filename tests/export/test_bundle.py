"""A model leaves the house as a MONAI bundle and works without us."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch

import medldm
from medldm.errors import OutputError
from medldm.export.monai_bundle import export
from medldm.export.torchscript import scripted
from medldm.inference.conditioning import measured_channels
from medldm.inference.networks import load_networks
from medldm.tasks.denoise import keep_local_means
from medldm.zoo import card, cards

# Functions of `python -m monai.bundle`, without its command line (which needs one more package), and without medldm.
ALONE = """
import sys
sys.modules["medldm"] = None
from monai.bundle import run, verify_metadata, verify_net_in_out
bundle, scans, out, schema, noise = sys.argv[1:]
meta, config = f"{bundle}/configs/metadata.json", f"{bundle}/configs/inference.json"
verify_metadata(meta_file=meta, filepath=schema)
verify_net_in_out(net_id="network", meta_file=meta, config_file=config, n=2, device="cpu",
                  bundle_root=bundle)
run(config_file=config, bundle_root=bundle, dataset_dir=scans, output_dir=out, noise=float(noise),
    device="$torch.device('cpu')")
"""
TENSOR = ["type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"]
# What the bundle specification calls mandatory; MONAI would download its own schema.
SCHEMA = {
    "type": "object",
    "required": ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
                 "optional_packages_version", "task", "description", "authors", "copyright", "network_data_format"],
    "properties": {"network_data_format": {
        "type": "object",
        "required": ["inputs", "outputs"],
        "additionalProperties": {"additionalProperties": {"required": [*TENSOR, "channel_def"]}},
    }},
}  # fmt: skip


NOISE = {"mr": 0.04, "ct": 40.0}


def denoised_alone(bundle, tmp_path, affine, modality="mr"):
    """A noisy phantom restored by the bundle in a process that cannot import medldm; the scan and the result."""
    clean = phantoms.brain((40, 44, 36))
    noisy = np.where(clean > 0, phantoms.rician(clean, 40.0), 0).astype(np.float32)
    if modality == "ct":
        noisy = (noisy - 1000).astype(np.float32)  # air to soft tissue in HU, 40 HU of noise
    (tmp_path / "scans").mkdir()
    path = phantoms.save(tmp_path / "scans" / "scan.nii.gz", noisy, affine)
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    command = [sys.executable, "-W", "ignore", "-c", ALONE]
    done = subprocess.run(
        [*command, str(bundle), str(path.parent), str(tmp_path / "out"), str(schema), str(NOISE[modality])],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return path, nib.load(tmp_path / "out" / "scan_restored.nii.gz")


@pytest.mark.slow
def test_a_bundle_restores_as_we_do_where_medldm_cannot_be_imported(tiny_model, tmp_path):
    bundle = export(card(str(tiny_model)), tmp_path / "bundle")
    path, result = denoised_alone(bundle, tmp_path, np.diag([-1.0, 1.0, 1.1, 1.0]))
    ours = medldm.denoise(medldm.read(path), 0.04, model=str(tiny_model), precision="fp32", device="cpu")
    expected, noisy = ours.to_stored(ours.voxels), nib.load(path).get_fdata()
    assert np.allclose(result.affine, nib.load(path).affine)
    assert np.abs(expected - noisy).max() > 5  # the tiny network does something
    head = noisy > 0
    head[[0, -1]] = head[:, [0, -1]] = head[:, :, [0, -1]] = False
    assert np.abs(result.get_fdata() - expected)[head].max() < 0.01  # of 1000


@pytest.mark.slow
@pytest.mark.parametrize("model", [one for one in cards() if not one.generator], ids=lambda model: model.name)
def test_every_shipped_model_runs_with_monai_alone(model, tmp_path):
    """Close to the verb: a bundle leaves no air out.

    Of CT the verb also keeps the local means, which a bundle leaves to its network.
    """
    bundle = export(model, tmp_path / "bundle")
    path, result = denoised_alone(bundle, tmp_path, np.diag([-1.0, 1.0, 1.1, 1.0]), model.modality)
    options = {"model": model.name, "modality": model.modality, "precision": "fp32", "device": "cpu"}
    ours = medldm.denoise(medldm.read(path), NOISE[model.modality], **options)
    expected, noisy = ours.to_stored(ours.voxels), nib.load(path).get_fdata()
    alone = result.get_fdata()
    if model.modality == "ct":
        kept = keep_local_means(*(torch.from_numpy(np.float32(voxels)) for voxels in (alone, noisy)), ours.spacing, 2)
        alone = kept.numpy()
    inside = (slice(2, -2),) * 3
    head = (noisy > noisy.min())[inside]
    away = (alone - expected)[inside][head]
    changed = (expected - noisy)[inside][head]
    brightest = 1000
    assert changed.std() > 0.01 * brightest
    assert np.abs(away).max() < 0.02 * brightest
    assert away.std() < 0.1 * changed.std()


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_the_networks_answer_as_those_of_tasks_do_on_any_grid(dims, tmp_path):
    model = card(str(phantoms.tiny_model(tmp_path, dims)))
    networks, module = load_networks(model), scripted(model)
    inputs = torch.rand(3 if dims == 2 else 1, networks.config.measured_channels, *(48, 32, 16)[:dims])
    with torch.no_grad():
        assert torch.allclose(module(inputs), networks.estimate(inputs), atol=1e-5)
        odd = inputs[..., :13]
        assert module(odd).shape == (len(inputs), 1, *odd.shape[2:])


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_channels_are_those_of_the_house(dims, tmp_path):
    model = card(str(phantoms.tiny_model(tmp_path, dims)))
    shape, module = load_networks(model).config, scripted(model)
    y, seen, sigma = torch.rand(3, 10, 9, 8)
    order = [2, 0, 1]
    expected = measured_channels(*(field.permute(order) for field in (y, seen, sigma)), 3.0, shape)
    channels = module.channels(y, seen, sigma, 3.0, order)
    assert torch.allclose(channels, expected, atol=1e-6)
    middle = channels[:, shape.context // 2 : shape.context // 2 + 1]
    assert torch.equal(module.volume(middle, order), y)


def test_thick_slices_are_looked_at_in_their_own_planes(tiny_model):
    from medldm.inference.conditioning import pick_orientations

    module = scripted(card(str(tiny_model)))
    for shape, mm in (((40, 40, 40), (1.0, 1.0, 1.0)), ((40, 40, 12), (0.9, 0.9, 4.0)), ((5, 40, 40), (1.0, 1.0, 1.0))):
        assert module.pick_orientations(list(shape), list(mm)) == [
            list(orientation.order) for orientation in pick_orientations((), (), shape, mm)
        ]


def test_the_bundle_says_what_it_is_and_does_not_overwrite(tiny_model, tmp_path):
    bundle = export(card(str(tiny_model)), tmp_path / "bundle")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == len(image["channel_def"]) == 12
    assert "Research use only" in (bundle / "LICENSE").read_text()
    assert "this plane" in (bundle / "docs" / "README.md").read_text()
    with pytest.raises(OutputError, match="not empty"):
        export(card(str(tiny_model)), tmp_path / "bundle")
