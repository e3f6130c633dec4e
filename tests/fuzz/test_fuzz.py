"""A short run of the fuzzer; the long one is `python tests/fuzz/fuzz_readers.py --inputs 100000`."""

import numpy as np
import phantoms
import pytest
from fuzz.fuzz_readers import Finding, check_geometry, fuzz, read_one
from fuzz.mutants import mutant, seeds

from medldm.io.discovery import find_cases


def test_every_seed_is_a_volume(tmp_path):
    undamaged = seeds(tmp_path / "seeds")
    assert [read_one(seed, tmp_path / "input") for seed in undamaged] == ["volume"] * len(undamaged)


def test_a_mutant_is_the_same_whenever_it_is_drawn(tmp_path):
    one, two = seeds(tmp_path / "one")[0], seeds(tmp_path / "two")[0]
    assert one == two
    assert mutant(4711, [one]) == mutant(4711, [two]) != one


def test_the_fuzzer_sees_a_wrong_affine(tmp_path):
    phantoms.save(tmp_path / "scan.nii.gz", phantoms.brain((6, 5, 4)), np.diag([1, 1, 2.0, 1]))
    (case,) = find_cases(tmp_path)
    volume = case.read()
    check_geometry(volume, case, fixed=False)
    wrong = volume.affine.copy()
    wrong[2, 2] = 2.5
    with pytest.raises(Finding, match="stands nowhere"):
        check_geometry(volume.with_voxels(volume.voxels, affine=wrong), case, fixed=False)


@pytest.mark.slow
def test_damaged_files_end_in_the_right_volume_or_a_sentence():
    ends, findings = fuzz(0, 600)
    assert not findings
    assert sum(ends.values()) == 600
    assert min(ends["volume"], ends["sentence"]) > 50
