"""The reference weights that come with the project: what they are, and that they are the ones that were measured."""

import pytest
import torch
from safetensors.torch import load_file

from reidkit import files, parameters, runs
from reidkit.checkpoints import digest
from reidkit.models.backbones import load_weights, small_resnet
from reidkit.recipes import baseline, generators, sources, supervised
from reidkit.recipes.sources import find_weights
from reidkit.world.city import Plan

PATH = find_weights("reference")
RECORD = files.read_json(runs.RESULTS / "reference.json")


def test_the_file_is_the_one_that_was_measured_and_small():
    assert digest(PATH) == RECORD["sha256"] == sources.REFERENCE_SHA256  # which moves the digest of all recipes
    assert digest(generators.REFERENCE) == generators.REFERENCE_SHA256
    assert PATH.stat().st_size == RECORD["bytes"] <= 4_000_000


def test_the_agents_are_directions_one_for_each_person_of_auxiliary():
    agents = load_file(PATH)["classifier.weight"].float()
    assert agents.shape == (RECORD["agents"], small_resnet().dim)
    assert RECORD["agents"] == Plan("auxiliary", "tiny", 0).everybody < RECORD["people"]
    torch.testing.assert_close(agents.norm(dim=1), torch.ones(len(agents)), atol=2e-3, rtol=0)


def test_a_network_starts_from_them_by_name():
    params = baseline.Parameters.of(parameters.preset("02", "tiny")).but(weights="reference")
    model, fresh = supervised.build_model(params, 5), small_resnet()
    load_weights(fresh, PATH)
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name]), name


def test_they_find_people_they_have_never_seen():
    """Measured by the command that made them, in cities that no experiment uses; chance is under one per cent."""
    assert min(city["rank1"] for city in RECORD["direct transfer"].values()) > 0.1


REAL = RECORD.get("Market-1501, no image of which was learnt from", [])  # this file, then a former one


@pytest.mark.skipif(len(REAL) < 2, reason="made where Market-1501 was not at hand")
def test_they_find_real_people_better_than_the_former_ones():
    new, former = REAL
    assert new["sha256"] == RECORD["sha256"] != former["sha256"]
    assert (new["n_query"], new["n_gallery"]) == (former["n_query"], former["n_gallery"]) == (3368, 19732)
    assert new["mAP"] > former["mAP"] and new["rank1"] > former["rank1"]
