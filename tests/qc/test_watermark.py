"""The mark of wholly generated images: it can be asked for, is found again, and never gets into a scan."""

import io

import numpy as np
import phantoms
import pytest
from PIL import Image
from scipy import ndimage

import medldm
from medldm.errors import UsageError
from medldm.qc.watermark import THRESHOLD, find, mark


@pytest.fixture(scope="module")
def generated():
    """What a network might have made: a plane of a drawn head, grey in [0, 1]."""
    head = phantoms.brain((160, 192, 3))[..., 1].astype(np.float32)
    return head / head.max()


def as_jpeg(image):
    held = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(image, 0, 1) * 255)).save(held, "jpeg", quality=50)
    return np.asarray(Image.open(held), np.float32)


LIVES = {
    "nothing": lambda image: image,
    "noise": lambda image: image + 0.05 * np.random.default_rng(0).standard_normal(image.shape),
    "blur": lambda image: ndimage.gaussian_filter(image, 1),
    "another grey scale": lambda image: 300 * np.clip(image, 0, None) ** 0.7 - 100,
    "JPEG": as_jpeg,
    "cropping": lambda image: image[29:141, 37:165],
}


@pytest.mark.parametrize("name", LIVES)
def test_a_mark_is_found_after(name, generated):
    assert find(LIVES[name](mark(generated))) > THRESHOLD


def test_nobody_elses_image_bears_it(generated):
    assert find(generated) < THRESHOLD
    assert find(mark(generated, key="theirs"), key="ours") < THRESHOLD
    draw = np.random.default_rng(1)
    assert max(find(draw.standard_normal((128, 128))) for _ in range(50)) < THRESHOLD


def test_it_is_faint_and_leaves_air_alone(generated):
    changed = mark(generated) - generated
    air = ndimage.uniform_filter(generated, 5) == 0
    assert not changed[air].any()
    assert changed.std() < 0.03
    assert abs(changed.mean()) < 0.001


def test_a_volume_bears_it_in_every_plane(generated):
    volume = np.stack([generated] * 3, -1)
    assert find(mark(volume)) > THRESHOLD
    assert find(mark(volume)[..., 1]) > THRESHOLD


def test_what_was_measured_is_never_marked(generated):
    scan = medldm.Volume(np.stack([generated] * 3, -1), np.eye(4), name="scan")
    with pytest.raises(UsageError, match="measured"):
        mark(scan)


def test_no_task_makes_an_image_from_nothing(generated):
    """So none has to mark one (docs/decisions/0018)."""
    scan = medldm.Volume(np.stack([generated] * 8, -1), np.eye(4), name="scan")
    with pytest.raises(UsageError, match="nothing is left"):
        medldm.inpaint(scan, np.ones(scan.shape, np.uint8))
    with pytest.raises(UsageError, match="too little"):
        medldm.fill_slices(scan, missing=list(range(7)))
    nothing = medldm.Volume(np.zeros(scan.shape, np.float32), np.eye(4), name="nothing")
    with pytest.raises(medldm.errors.MedldmError):
        medldm.restore(nothing)


def test_an_image_of_one_grey_value_bears_no_mark():
    assert find(np.full((64, 64, 4), 7.0)) == 0.0
