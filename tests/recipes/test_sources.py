"""Real archives by name: each is found under any of its folder's names and read by its own protocol."""

import pytest
import torch

import miniatures
from reidkit import runs
from reidkit.recipes import sources
from reidkit.recipes.sources import ARCHIVES, find_weights, open_split


@pytest.mark.parametrize(
    ("dataset", "folder", "identities"),
    [
        ("market1501", "Market-1501-v15.09.15", 3),
        ("dukemtmc", "dukemtmc", 2),
        ("dukemtmc", "DukeMTMC-reID", 2),
        ("viper", "VIPeR", 3),
        ("msmt17", "MSMT17_V1", 3),
        ("cuhk03_np", "cuhk03-np", 2),
        ("cuhk03", "cuhk03", sum(miniatures.PAIRS) - 3),
    ],
)
def test_an_archive_is_found_by_its_name(tmp_path, dataset, folder, identities):
    write = {"cuhk03": "cuhk03_release"}.get(dataset, dataset)
    getattr(miniatures, write)(tmp_path / folder)
    split = open_split(dataset, data_root=tmp_path)
    assert (split.root, split.num_pids) == (tmp_path / folder, identities)


@pytest.mark.parametrize("dataset", ARCHIVES)
def test_an_archive_that_is_not_there_is_named(tmp_path, dataset):
    with pytest.raises(ValueError, match=r"does not exist; data/README\.md says where"):
        open_split(dataset, data_root=tmp_path)


@pytest.fixture(scope="module")
def cities(tmp_path_factory):
    return tmp_path_factory.mktemp("cities")


@pytest.mark.parametrize("dataset", ["viper_city", "cuhk03_np_city", "cuhk03_city"])
def test_a_drawn_city_is_read_by_the_protocol_of_its_archive(cities, dataset):
    split = open_split(dataset, data_root=cities, preset="quick", progress=False)
    assert split.num_cams == 2
    assert {record.pid for record in split.query} <= {record.pid for record in split.gallery}
    assert not {record.pid for record in split.query} & {record.pid for record in split.train}


def test_a_city_is_not_begun_where_it_cannot_be_written(tmp_path):
    (tmp_path / "cities").write_text("")
    with pytest.raises(ValueError, match=r"the city duke-quick-3 is not rendered yet; it goes to .*cities is a file"):
        open_split("duke", data_root=tmp_path, preset="quick", city_seed=3)


def test_an_unknown_knob_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"knob must be one of camera_colour, .* not 'ligth'; the nearest is light"):
        open_split("market", data_root=tmp_path, preset="quick", knobs="ligth=2")


def test_the_reference_weights_have_a_name():
    assert find_weights("reference") == runs.PACKAGE / "weights" / "reference.safetensors"
    assert find_weights("/elsewhere/w.pth").as_posix() == "/elsewhere/w.pth"


@pytest.mark.parametrize("card", [False, True])
def test_a_city_is_drawn_where_networks_are(tmp_path, monkeypatch, card):
    asked = []

    def draw(out, *, device, **plan):
        asked.append(device)
        return miniatures.market1501(out)

    monkeypatch.setattr(sources, "build_city", draw)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    open_split("market", data_root=tmp_path, preset="quick")
    assert asked == ["cuda" if card else "cpu"]
