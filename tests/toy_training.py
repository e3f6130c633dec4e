"""The scripts of docs/training at toy size: networks of a few channels, seconds instead of minutes."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import phantoms

from medldm.settings import Architecture
from medldm.training.archive import write_archive
from medldm.training.data import pack

SCRIPTS = Path(__file__).parents[1] / "docs" / "training"
PLANES = Architecture(context=3, unet=(8, 8), unet_strides=(1,), unet_units=1)
LATENT = Architecture(spatial_dims=3, context=1, latent_channels=4, vae=(8, 8), flow=(16, 16))


def script(name):
    """A script as a module, with networks of a few channels."""
    spec = importlib.util.spec_from_file_location(f"toy_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.CONTEXT = PLANES.context
    if name == "restorer":
        module.ARCHITECTURE = replace(PLANES)
    else:
        module.PLANES, module.LATENT = PLANES, LATENT
    return module


def run(module, monkeypatch, *arguments):
    """The script with these words on its command line."""
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
    module.main()


def packed(folder, shape=(52, 48, 56)):
    """Two phantoms of one head each, one to learn from and one to judge by, packed; the archive."""
    data, cache, archive = folder / "data", folder / "cache", folder / "scans.zip"
    data.mkdir()
    rows = ["split,file,subject"]
    for number, split in enumerate(("train", "val")):
        noisy = phantoms.rician(np.roll(phantoms.brain(shape), number, axis=0), 10, number)
        phantoms.save(data / f"s{number}_T1w.nii.gz", noisy, dtype=np.int16)
        rows.append(f"{split},s{number}_T1w.nii.gz,s{number}")
    (data / "split.csv").write_text("\n".join(rows) + "\n")
    pack(data, cache)
    write_archive(cache, archive)
    return archive
