"""A knob is declared once and explains itself."""

import argparse
from dataclasses import fields

import pytest

from medldm.cli.flags import add_settings, flag, settings_from
from medldm.errors import UsageError
from medldm.settings import Denoise, SuperResolve, make
from medldm.tasks import TASKS


@pytest.mark.parametrize("kind", [task.settings for task in TASKS.values()])
def test_every_knob_says_what_it_means_and_becomes_a_flag(kind):
    parser = argparse.ArgumentParser()
    add_settings(parser, kind)
    text = parser.format_help()
    for knob in fields(kind):
        if knob.metadata.get("unused"):
            assert flag(knob.name) not in text
        else:
            assert knob.metadata["meaning"], knob.name
            assert flag(knob.name) in text


def test_flags_give_the_settings_they_name():
    parser = argparse.ArgumentParser()
    add_settings(parser, SuperResolve)
    arguments = ["--spacing", "0.9,0.9,1.5", "--slice-profile", "rect", "--samples", "3"]
    settings = settings_from(parser.parse_args(arguments), SuperResolve)
    assert settings.spacing == (0.9, 0.9, 1.5)
    assert settings.slice_profile == "rect"
    assert settings == SuperResolve(spacing=(0.9, 0.9, 1.5), slice_profile="rect", samples=3)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"fidelity": 2}, "--fidelity"),
        ({"device": "foo"}, "--device"),
        ({"samples": 2.5}, "--samples"),
        ({"noise": "loud"}, "--noise"),
        ({"noise": float("nan")}, "--noise"),
        ({"modality": "pet"}, "--modality"),
        ({"colour": 1}, "colour"),
        ({"samples": 0}, "--samples"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(options, word):
    with pytest.raises(UsageError, match=word):
        make(Denoise, options)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 1.0, 1.0), "1,1"])
def test_spacing_is_one_number_or_three(spacing):
    with pytest.raises(UsageError, match="--spacing"):
        make(SuperResolve, {"spacing": spacing})


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_devices_that_can_be_meant(device):
    assert make(Denoise, {"device": device}).device == device
