"""Gates on the weights of flows: two small cubes of the shipped sample scan, some seconds a set.

No set ships a flow (record 0055); the one that was trained for research lies in `docs/training/flow`.
"""

import numpy as np
import phantoms
import pytest
import torch

from medldm.benchmark import gate_cases, gates
from medldm.inference.networks import load_networks
from medldm.io import read_nifti
from medldm.modality import MODALITIES
from medldm.models.precision import pick_precision
from medldm.samples import sample_path
from medldm.zoo import card, cards

EDGE = 48  # voxels
SETS = [*(known for known in cards() if known.residual), card(str(phantoms.RESEARCH_FLOW))]
QUICK = {"obedience", "seeds", "mean"}
# One cube is not a scanner: what two subjects of one scanner differ by is allowed for.
SLACK = {"true latent gain": 1.0, "mean gain": 0.05, "crps ratio": 0.03, "energy ratio": 0.03}


def middle(modality):
    """A cube of 48 voxels, or what there is of it, from the middle of the shipped scan of a modality."""
    voxels = read_nifti(sample_path(modality)).voxels
    scaled = MODALITIES[modality].scaling(voxels).apply(voxels).astype(np.float32)
    edges = [min(EDGE, size // 16 * 16) for size in scaled.shape]
    starts = [(size - edge) // 2 for size, edge in zip(scaled.shape, edges, strict=True)]
    where = tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))
    return torch.from_numpy(scaled[where].copy())


@pytest.mark.slow
@pytest.mark.parametrize("row", ["thick4", "gap4"])
@pytest.mark.parametrize("known", SETS, ids=lambda known: known.name)
def test_a_flow_obeys_has_seeds_that_matter_and_a_mean_as_good_as_the_regression(known, row):
    networks = load_networks(known, "cpu", pick_precision("auto", "cpu"))
    case = gate_cases.case(row, "sample", middle(known.modality))
    figures = gates.averaged([gates.figures(networks, case, gates.answer(networks, case, samples=8))])
    judged = [(gate, figure) for gate, figure in gates.judged(row, figures) if gate.name in QUICK]
    assert {gate.name for gate, _ in judged} == QUICK
    for gate, figure in judged:
        slack = SLACK.get(gate.key, 0.0)
        assert gate.low - slack <= figure <= gate.high + slack, f"{gate.figure}: {figure:.3f}, {gate.limit}"
