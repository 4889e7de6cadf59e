"""Tables are made from result files alone; here the files are made by hand."""

import dataclasses

import pytest

from reidkit import claims, parameters, runs
from reidkit.claims import Effect
from reidkit.recipes import baseline
from reidkit.studies import tables
from reidkit.studies.runner import recipe


def record(folder, variant, seed, aps, *, pids=(1, 2, 3), dataset="market", rank1=0.5, notebook="02", code="",
           preset="tiny", **more):  # fmt: skip
    metrics = {"rank1": rank1, "rank5": 0.8, "mAP": sum(aps) / len(aps)} | more
    params = {"dataset": dataset, "city_seed": seed}
    per_query = {"pid": list(pids), "ap": list(aps)}
    result = runs.Result(notebook, preset, variant, seed, params, metrics, 1.0, 1, per_query=per_query)
    result = dataclasses.replace(result, provenance={"code": code or runs.digest(notebook)})
    runs.save_result(result, folder)


@pytest.fixture
def folder(tmp_path):
    for seed, shift in enumerate((0.0, 0.01, -0.01)):
        record(tmp_path, "softmax", seed, [0.3 + shift, 0.4, 0.5], rank1=0.40)
        record(tmp_path, "neck", seed, [0.4 + 2 * shift, 0.5, 0.6], rank1=0.50 + shift)
    record(tmp_path, "smoothing", 0, [0.4, 0.4, 0.4])
    return tmp_path


def test_an_ablation_has_a_row_for_each_variant_run_or_not(folder):
    rows = {row["variant"]: row for row in tables.ablation("02", "tiny", ["tricks"], folder=folder)}
    assert len(rows) == len(claims.groups("02", baseline.VARIANTS)["tricks"])
    assert rows["softmax"]["changes"] == "neck = none, label_smoothing = 0.0, erase = 0.0"
    assert rows["+ BN neck"]["seeds"] == "3" and rows["+ BN neck"]["rank1"] == "50.0 ± 1.0"
    assert rows["softmax"]["mAP"] == "40.0 ± 0.3"
    assert rows["+ label smoothing"]["mAP"] == "40.0"  # one seed has no spread
    assert rows["default + triplet"]["mAP"] == tables.NOT_RUN


def test_effects_are_paired_differences_with_a_verdict(folder):
    sentences = [
        Effect("a BN neck helps", "neck", "softmax", "somebody"),
        Effect("label smoothing helps", "smoothing", "neck", "somebody"),
        Effect("the triplet loss helps", "triplet", "default", "somebody"),
    ]
    rows = {row["claim"]: row for row in tables.effects("02", "tiny", sentences, folder=folder)}
    neck = rows["a BN neck helps"]
    assert neck["points"] == "+10.0" and neck["seeds"] == "3" and neck["verdict"] == "reproduces"
    assert neck["compared"] == "+ BN neck − softmax"
    low, high = (float(bound) for bound in neck["95 % interval"].split(" to "))
    assert 0 < low < 10 < high
    assert rows["label smoothing helps"]["verdict"] == "one seed: no verdict"
    assert rows["the triplet loss helps"]["verdict"] == tables.NOT_RUN


def test_a_claim_the_other_way_round_is_opposed(folder):
    claim = Effect("the neck harms", "neck", "softmax", "somebody", direction=-1)
    assert tables.effects("02", "tiny", [claim], folder=folder)[0]["verdict"] == "opposite"


@pytest.mark.parametrize(("points", "verdict"), [(4.0, "reproduces"), (0.5, "same direction, other size")])
def test_the_size_in_print_stands_beside_ours_and_decides_too(folder, points, verdict):
    claim = Effect("the neck helps", "neck", "softmax", "somebody", printed=points)
    row = tables.effects("02", "tiny", [claim], folder=folder)[0]
    assert (row["paper"], row["points"], row["verdict"]) == (f"{points:+.1f}", "+10.0", verdict)


def test_a_control_with_the_same_effect_is_its_cause(folder):
    claim = Effect("smoothing helps", "triplet", "softmax", "somebody", control="neck")
    for seed, shift in enumerate((0.0, 0.01, -0.01)):
        record(folder, "triplet", seed, [0.4 + shift, 0.5, 0.6])  # no more than its control
    assert tables.effects("02", "tiny", [claim], folder=folder)[0]["verdict"] == "same effect, other cause"
    for seed, shift in enumerate((0.0, 0.01, -0.01)):
        record(folder, "triplet", seed, [0.6 + shift, 0.7, 0.8])
    assert tables.effects("02", "tiny", [claim], folder=folder)[0]["verdict"] == "reproduces"


def test_what_no_run_can_decide_says_why(folder):
    claim = Effect("the neck helps", "neck", "softmax", "somebody", untestable="there is one camera")
    assert (
        tables.effects("02", "tiny", [claim], folder=folder)[0]["verdict"] == "not testable here: there is one camera"
    )


def test_two_worlds_stand_side_by_side(folder):
    claim = Effect("the neck helps", "neck", "softmax", "somebody", printed=4.0)
    worlds = {"drawn people": "tiny", "Market-1501": "market_cpu"}
    (row,) = tables.side_by_side("02", worlds, [claim], folder=folder)
    assert (row["claim"], row["paper"], row["drawn people: verdict"]) == ("the neck helps", "+4.0", "reproduces")
    assert row["drawn people"].startswith("+10.0 (") and row["drawn people"].endswith(", 3 seeds")
    assert (row["Market-1501"], row["Market-1501: verdict"]) == (tables.NOT_RUN, tables.NOT_RUN)


def test_rows_of_other_seeds_are_compared_over_the_seeds_they_share(folder):
    rows = tables.ablation(
        "02", "tiny", ["softmax", "neck", "smoothing"], metrics=["mAP"], against="neck", folder=folder
    )
    column = "mAP − + BN neck, same seeds"
    assert [row[column] for row in rows] == ["-10.0", "–", "-10.0"]  # smoothing: seed 0 alone, 40.0 against 50.0
    assert rows[2]["seeds"] == "1"


def test_two_worlds_are_asked_whether_they_rank_alike(folder):
    for seed in range(3):
        for variant, ap in (("softmax", 0.1), ("neck", 0.2), ("smoothing", 0.15), ("triplet", 0.9)):
            record(folder, variant, seed, [ap, ap, ap], dataset="market1501")
    for path in folder.glob("*.json"):
        path.rename(path.with_name(path.name.replace("tiny", "market_cpu")))
    for variant, ap in (("softmax", 0.3), ("neck", 0.5), ("smoothing", 0.6)):
        record(folder, variant, 0, [ap, ap, ap])
    found, rows = tables.agreement(["02"], "tiny", "market_cpu", folder=folder)
    assert found.methods == 3 and found.tau == pytest.approx(1 / 3)
    assert [row["variant"] for row in rows] == ["softmax", "neck", "smoothing"]
    assert rows[1]["tiny"] == pytest.approx(0.5) and rows[1]["market_cpu"] == pytest.approx(0.2)


def test_a_claim_about_one_and_the_same_run_is_left_out():
    """p = 0.1 is what the archives run anyway."""
    drawn, archive = ({row["claim"] for row in tables.effects("05", name)} for name in ("quick", "market1501"))
    assert drawn - archive == {"p = 0.1 is better than p = 0.2"} and archive < drawn


def test_a_question_of_ours_cannot_be_reproduced_only_seen(folder):
    question = Effect("the neck helps", "neck", "softmax")
    row = tables.effects("02", "tiny", [question], folder=folder)[0]
    assert (row["who says so"], row["verdict"]) == ("our question", "seen")


def test_runs_with_other_queries_are_not_compared(folder):
    record(folder, "smoothing", 1, [0.4, 0.4], pids=(1, 2))
    with pytest.raises(ValueError, match=r"02\.tiny\.smoothing\.1 and 02\.tiny\.neck\.1 were not tested with the same"):
        tables.effects("02", "tiny", folder=folder)


def test_seeds_of_one_archive_share_their_people(tmp_path):
    for seed in range(3):
        for kind, lift in (("softmax", 0), ("neck", 0.05)):
            record(tmp_path, kind, seed, [0.3 + lift, 0.4 - lift, 0.5 + lift])
            record(tmp_path / "real", kind, seed, [0.3 + lift, 0.4 - lift, 0.5 + lift], dataset="market1501")
    drawn, real = (tables.difference("02", "tiny", "neck", "softmax", folder=f) for f in (tmp_path, tmp_path / "real"))
    assert real.high - real.low > 1.5 * (drawn.high - drawn.low)


def test_power_tells_the_seeds_of_comparisons_with_three_or_more(folder):
    rows = tables.power("02", "tiny", folder=folder)
    assert [row["compared"] for row in rows] == ["a BN neck helps softmax alone"]
    assert rows[0].keys() == {"compared", "spread over seeds, points", "+1 points", "+2 points", "+5 points"}
    needed = [int(rows[0][f"+{points} points"].split()[0]) for points in (1, 2, 5)]
    assert needed == sorted(needed, reverse=True) and needed[-1] >= 2


def test_text_lays_out_columns():
    rows = [{"name": "a", "mAP": "1.0"}, {"name": "bcdef", "mAP": "22.0"}]
    assert tables.text(rows) == "name   mAP\na      1.0\nbcdef  22.0"
    assert tables.text([]) == "nothing recorded yet"


def test_print_record_and_this_run_stand_side_by_side(tmp_path):
    for seed, lift in enumerate((0.0, 0.02)):
        record(tmp_path, "default", seed, [0.3 + lift, 0.5 + lift], pids=(1, 2), rank1=0.6, notebook="03")
    columns = ("mAP", "rank1", "rank5")
    rows = tables.beside_paper(
        "03", "tiny", ["headline"], this_run={"softmax": {"mAP": 0.25, "rank1": 0.5}}, metrics=columns, folder=tmp_path
    )
    softmax, lin = rows
    assert list(lin) == ["variant", "paper, market", "paper, duke", "seeds", *columns, "this run"]
    # Tables I and II of the paper, mAP / rank-1
    assert (softmax["paper, market"], softmax["paper, duke"]) == ("86.1 / 94.6", "77.3 / 88.5")
    assert (lin["paper, market"], lin["paper, duke"]) == ("88.9 / 94.9", "80.8 / 90.9")
    assert (lin["seeds"], lin["mAP"], lin["rank1"]) == ("2", "41.0 ± 1.4", "60.0 ± 0.0")
    assert (lin["this run"], softmax["this run"], softmax["mAP"]) == ("–", "25.0 / 50.0", tables.NOT_RUN)


WHOLE = ["mAP_trapezoid", "rank1", "rank5", "rank10"]  # AP as the Market toolbox counts it, single query
SINGLE = ["mAP_single", "rank1_single", "rank5_single", "rank10_single"]  # galleries of one image a person
LIKE = {  # notebook, preset, variant: table, numbers, and what each is in our results
    ("03", "market1501", "default"): ("II", [88.9, 94.9], ["mAP", "rank1"]),
    ("03", "dukemtmc", "default"): ("II", [80.8, 90.9], ["mAP", "rank1"]),
    ("03", "market1501", "resnet50"): ("V", [87.2, 95.0], ["mAP", "rank1"]),
    ("03", "market1501", "lin_there"): ("VI", [28.6, 45.5], ["mAP", "rank1"]),  # tested in the other archive
    ("03", "market1501", "lin_back"): ("VI", [25.5, 52.7], ["mAP", "rank1"]),
    ("03", "market1501_printed", "softmax"): ("I", [86.1, 94.6], ["mAP", "rank1"]),
    ("04", "market1501", "default"): ("4 and 6", [79.08, 92.43, 97.27, 98.39], WHOLE),
    ("04", "market1501", "baseline"): ("4 and 6", [74.16, 90.05, 96.82, 98.10], WHOLE),
    ("04", "market1501_resnet50", "default"): ("4 and 6", [75.15, 89.16, 95.78, 97.33], WHOLE),
    ("04", "market1501_resnet50_printed", "baseline"): ("4 and 6", [69.70, 87.29, 95.57, 96.94], WHOLE),
    ("04", "market1501_baseline", "baseline"): ("4 and 6", [74.16, 90.05, 96.82, 98.10], WHOLE),
    ("04", "dukemtmc", "default"): ("4 and 6", [67.78, 82.94, 91.69, 94.43], WHOLE),
    ("04", "market1501", "lsro"): (None, None, None),  # printed of ResNet-50 alone
    ("04", "market1501_resnet50", "lsro"): ("4 and 6", [66.07, 83.97], WHOLE[:2]),
    ("04", "market1501", "amount_2_clusters_3"): (
        2, [89.01, 92.70, 96.05, 96.94], ["mAP_reranked_trapezoid", "rank1_reranked", "-", "-"]
    ),
    ("04", "market1501_resnet50", "amount_2_clusters_3"): (None, None, None),  # Table 2 is of DenseNet-121
    ("04", "cuhk03", "default"): ("4 and 6", [89.47, 83.61, 96.95, 98.88], SINGLE),
    ("04", "cuhk03_resnet50", "baseline"): ("4 and 6", [83.91, 75.11, 94.97, 97.87], SINGLE),
    ("04", "viper", "default"): ("4 and 6", [67.41, 81.01, 88.61, 93.51], ["rank1", "rank5", "rank10", "rank20"]),
    ("04", "viper_resnet50", "lsro"): (None, None, None),
    ("05", "market1501", "default"): (None, None, None),  # its tables are lost
    ("06", "market1501", "default"): (3, [40.0, 67.7, 81.9, 87.3], ["mAP_mar", "rank1", "rank5", "rank10"]),
    ("06", "dukemtmc", "pretrained"): (3, [28.8, 43.1, 59.2, 65.7], ["mAP_mar", "rank1", "rank5", "rank10"]),
}  # fmt: skip


@pytest.mark.parametrize("run", LIKE, ids=".".join)
def test_a_run_on_an_archive_stands_beside_its_own_network_convention_and_protocol(run):
    number, name, variant = run
    params = recipe(number).Parameters.of(
        {**parameters.preset(number, name), **recipe(number).VARIANTS[variant].changes}
    )
    found = claims.beside(number, variant, params.values())
    assert tuple(found.get(key) for key in ("table", "printed", "measures")) == LIKE[run]


def test_a_table_of_an_archive_compares_like_with_like(tmp_path):
    more = {"mAP_trapezoid": 0.36, "rank5": 0.8, "rank10": 0.9, "mAP_reranked_trapezoid": 0.6, "rank1_reranked": 0.7}
    for variant in ("default", "amount_2_clusters_3"):
        record(tmp_path, variant, 0, [0.3, 0.5], pids=(1, 2), notebook="04", preset="market1501", **more)
    chosen = ["baseline", "default", "amount_2_clusters_3"]
    here = {"baseline": "not run: no time", "default": {"mAP_trapezoid": 0.5, "rank1": 0.6, "rank5": 0.7, "rank10": 1}}
    none, whole, reranked = tables.beside_paper("04", "market1501", chosen, this_run=here, folder=tmp_path)
    assert {row["network"] for row in (none, whole, reranked)} == {"densenet121"}
    assert whole["paper"] == "79.1 / 92.4 / 97.3 / 98.4" and whole["recorded"] == "36.0 / 50.0 / 80.0 / 90.0"
    assert whole["of"] == "mAP_trapezoid / rank1 / rank5 / rank10" and whole["this run"] == "50.0 / 60.0 / 70.0 / 100.0"
    assert (reranked["recorded"], reranked["of"]) == ("60.0 / 70.0", "mAP_reranked_trapezoid / rank1_reranked")
    assert (none["recorded"], none["this run"]) == (tables.NOT_RUN, "not run: no time")
    ours = {"ours": ("default", ""), "re-ranked": ("default", "_reranked")}
    rows = tables.state_of_the_art("04", "market1501", ours, folder=tmp_path)
    assert [row["recorded"] for row in rows[-2:]] == ["36.0 / 50.0", "60.0 / 70.0"]


def test_a_row_that_needs_another_archive_says_so():
    for make in (tables.ablation, tables.beside_paper):
        softmax, abroad = make("03", "market1501", ["softmax", "lin_there"], folder="no/such/folder")
        values = [row.get("mAP", row.get("recorded")) for row in (softmax, abroad)]
        assert values == [tables.NOT_RUN, "not run: needs dukemtmc"]
    assert tables.ablation("03", "tiny", ["lin_there"], folder="no/such/folder")[0]["mAP"] == tables.NOT_RUN


def test_a_recipe_without_printed_rows_has_dashes(folder):
    rows = tables.beside_paper("02", "tiny", ["neck"], metrics=["mAP"], folder=folder)
    assert [rows[0][column] for column in ("paper, market", "paper, duke", "mAP")] == ["–", "–", "50.0 ± 0.7"]


def test_our_rows_stand_below_the_methods_of_the_paper(tmp_path):
    record(tmp_path, "default", 0, [0.3, 0.5], pids=(1, 2), notebook="03", mAP_reranked=0.45, rank1_reranked=0.7)
    ours = {"ours": ("default", ""), "re-ranked": ("default", "_reranked"), "softmax": ("softmax", "")}
    *_, paper, plain, reranked, missing = tables.state_of_the_art("03", "tiny", ours, folder=tmp_path)
    assert paper["method"] == "softmax + Lin, re-ranked" and paper["paper, duke"] == "90.0 / 92.6"
    assert [row["recorded"] for row in (plain, reranked, missing)] == ["40.0 / 50.0", "45.0 / 70.0", tables.NOT_RUN]
    pyramid = next(row for row in tables.state_of_the_art("03", "tiny", {}) if row["method"] == "Pyramid")
    assert pyramid["paper, duke"] == "–"


def test_a_paper_that_counts_no_features_has_no_such_column():
    rows = tables.state_of_the_art("06", "tiny", {"ours": ("default", "")})
    assert rows[0] == {
        "method": "LOMO", "paper, market": "8.0 / 27.2 / 41.6", "paper, duke": "4.8 / 12.3 / 21.3", "recorded": "",
    }  # fmt: skip
    assert "features" not in rows[-1]


def test_results_of_different_code_are_in_no_table_together(folder):
    assert (
        tables.standing("02", "tiny", folder=folder)
        == "All 7 results of notebook 02, preset tiny were made by today's code."
    )
    record(folder, "smoothing", 2, [0.4, 0.4, 0.4], code="0123456789ab")
    makers = [tables.ablation, tables.effects, tables.power, tables.beside_paper, tables.standing]
    for make in makers:
        with pytest.raises(
            ValueError, match=r"different code \(7 by \w{12}, 1 by 0123456789ab\) .* --preset tiny --verify"
        ):
            make("02", "tiny", folder=folder)
    with pytest.raises(ValueError, match="different code"):
        tables.difference("02", "tiny", "neck", "softmax", folder=folder)


def test_stale_results_are_shown_and_said_to_be_stale(tmp_path):
    record(tmp_path, "softmax", 0, [0.3, 0.4, 0.5], code="0123456789ab")
    assert tables.ablation("02", "tiny", ["softmax"], folder=tmp_path)[0]["mAP"] == "40.0"
    assert "All 1 results of notebook 02, preset tiny are stale" in tables.standing("02", "tiny", folder=tmp_path)


def test_a_claim_about_another_measure_is_compared_seed_by_seed(folder):
    claim = Effect("the neck finds the first image more often", "neck", "softmax", "somebody", measure="rank1")
    (row,) = tables.effects("02", "tiny", [claim], folder=folder)
    assert (row["measure"], row["points"], row["seeds"], row["verdict"]) == ("rank1", "+10.0", "3", "reproduces")
    low, high = (float(bound) for bound in row["95 % interval"].split(" to "))
    assert high - low == pytest.approx(2 * 4.303 * 1.0 / 3**0.5, abs=0.15)  # Student's t of 3 seeds that scatter by 1
