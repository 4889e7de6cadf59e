"""Tables from recorded results and from nothing else: means with spread, paired differences with verdicts.

Every function returns rows (dicts of text), which a notebook, the command line and README print alike. The results of a
notebook and a preset must all be made by the same code: a table that would mix two is refused.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from reidkit import claims, parameters, runs
from reidkit.claims import Effect
from reidkit.metrics import comparison
from reidkit.metrics.comparison import Agreement, Comparison, Pair, compare, seeds_needed
from reidkit.recipes.sources import CITIES
from reidkit.runs import Result
from reidkit.studies.runner import expand, needs, recipe

NOT_RUN = "not run yet"


def recorded(notebook: str, preset: str, *, folder: str | Path = "") -> dict[str, list[Result]]:
    """The recorded results of a notebook and a preset: variant -> results, by seed.

    Raises:
        ValueError: they were made by different code; the sentence says which, and the remedy.

    >>> recorded("99", "tiny")
    {}
    """
    found, makers = {}, Counter()
    for result in runs.load_results(notebook[:2], preset, folder=folder):
        found.setdefault(result.variant, []).append(result)
        makers[result.provenance.get("code", "")] += 1
    if len(makers) > 1:
        parts = ", ".join(f"{count} by {code or 'nobody knows which'}" for code, count in makers.most_common())
        raise ValueError(
            f"the results of notebook {notebook[:2]}, preset {preset}, were made by different code ({parts}) and "
            f"belong in no table together; run `reidkit study {notebook[:2]} --preset {preset} --verify`."
        )
    return {variant: sorted(results, key=lambda result: result.seed) for variant, results in found.items()}


def standing(notebook: str, preset: str, *, folder: str | Path = "") -> str:
    """One sentence: whether the recorded results of a notebook and a preset were made by today's code.

    >>> standing("99", "tiny")
    'Nothing is recorded of notebook 99, preset tiny.'
    """
    results = [result for row in recorded(notebook, preset, folder=folder).values() for result in row]
    place = f"notebook {notebook[:2]}, preset {preset}"
    if not results:
        return f"Nothing is recorded of {place}."
    if not results[0].stale:
        return f"All {len(results)} results of {place} were made by today's code."
    return (
        f"All {len(results)} results of {place} are stale: today's code did not make them. "
        f"`reidkit study {notebook[:2]} --preset {preset} --verify` says whether their numbers still hold."
    )


def ablation(
    notebook: str,
    preset: str,
    variants: Sequence[str] = (),
    *,
    metrics: Sequence[str] = ("rank1", "rank5", "mAP"),
    against: str = "",
    folder: str | Path = "",
) -> list[dict[str, str]]:
    """One row a variant: what it changes, how many seeds, and each metric in percent as mean ± standard deviation.

    Means over other seeds differ by chance alone; `against` adds what is fair, a paired difference.
    A row that was not run and needs another archive than the preset's says which.

    Args:
        notebook: "02" or "02_baseline".
        preset: size of the runs.
        variants: keys of the recipe's `VARIANTS`, or names of groups of them; all variants where left out.
        metrics: keys of the recorded metrics.
        against: a variant; adds the difference of the last metric from it, over the seeds that both have.
        folder: where the result files are.

    >>> ablation("02", "quick", ["softmax"], folder="no/such/folder")[0]["mAP"]
    'not run yet'
    """
    rows, found = [], recorded(notebook, preset, folder=folder)
    for variant in expand(notebook, variants):
        title, changes = recipe(notebook).VARIANTS[variant]
        results = found.get(variant, [])
        changed = ", ".join(f"{name} = {value}" for name, value in changes.items()) or "–"
        row = {"variant": title, "changes": changed, "seeds": str(len(results))}
        others = ", ".join(needs(notebook, preset, variant))
        blank = f"not run: needs {others}" if others else NOT_RUN
        found_of = {metric: [100 * result.metrics[metric] for result in results] for metric in metrics}
        row |= {metric: _spread(values) if values else blank for metric, values in found_of.items()}
        if against:
            paired = _compare(found, variant, against, metrics[-1]) if variant != against else None
            title = recipe(notebook).VARIANTS[against].title
            row[f"{metrics[-1]} − {title}, same seeds"] = f"{100 * paired.difference:+.1f}" if paired else "–"
        rows.append(row)
    return rows


def beside_paper(
    notebook: str,
    preset: str,
    variants: Sequence[str] = (),
    *,
    this_run: Mapping[str, Mapping[str, float] | str] | None = None,
    metrics: Sequence[str] = ("mAP", "rank1", "rank5", "rank10", "rank20"),
    folder: str | Path = "",
) -> list[dict[str, str]]:
    """One row a variant: what the paper prints (mAP / rank-1 / ...), what is recorded, and what this run measured.

    Recorded runs on an archive stand beside what is printed for the same network and archive only, each number beside
    one of the same convention of AP and the same protocol; a column says which. Drawn people stand beside the paper's
    two archives as a matter of direction.

    Args:
        notebook: "03" or "03_ranking".
        preset: size of the recorded runs.
        variants: keys of the recipe's `VARIANTS`, or names of groups of them; all variants where left out.
        this_run: variant -> metrics of a run of any size, or why there is none; rows without either have a dash.
        metrics: keys of the recorded metrics, mean ± standard deviation over seeds, in percent.
        folder: where the result files are.

    >>> beside_paper("03", "quick", ["default"], folder="no/such/folder")[0]["paper, market"]
    '88.9 / 94.9'
    """
    if _usual(notebook, preset)["dataset"] not in CITIES:
        return _like_for_like(notebook, preset, variants, this_run=this_run or {}, folder=folder)
    printed = claims.printed(notebook).get("table_of_variants", {})
    rows = []
    for variant, row in zip(
        expand(notebook, variants), ablation(notebook, preset, variants, metrics=metrics, folder=folder), strict=True
    ):
        del row["changes"]
        paper = {f"paper, {city}": _map_and_rank1(printed.get(variant, {}).get(city)) for city in ("market", "duke")}
        measured = (this_run or {}).get(variant)
        if not isinstance(measured, str):
            measured = _map_and_rank1([100 * measured["mAP"], 100 * measured["rank1"]] if measured else None)
        rows.append({"variant": row.pop("variant"), **paper, **row, "this run": measured})
    return rows


def _like_for_like(
    notebook: str, preset: str, variants: Sequence[str], *, this_run: Mapping[str, Any], folder: str | Path
) -> list[dict[str, str]]:
    """`beside_paper` of a preset on an archive."""
    rows, found = [], recorded(notebook, preset, folder=folder)
    usual = {"market": ["mAP", "rank1"]} | claims.printed(notebook).get("our_runs", {})
    for variant in expand(notebook, variants):
        title, changes = recipe(notebook).VARIANTS[variant]
        params = {**_usual(notebook, preset), **changes}
        paper = claims.beside(notebook[:2], variant, params)
        measures = [name for name in paper.get("measures") or usual["market"] if name != "-"]
        results, others = found.get(variant, []), ", ".join(needs(notebook, preset, variant))
        parts = [_spread([100 * result.metrics[name] for result in results]) for name in measures]
        ours = " / ".join(parts) if results else f"not run: needs {others}" if others else NOT_RUN
        here = this_run.get(variant)
        if not isinstance(here, str):
            here = _map_and_rank1([100 * here[name] for name in measures] if here else None)
        row = {"variant": title, "network": str(params["backbone"]), "paper": _map_and_rank1(paper.get("printed"))}
        rows.append(row | {"seeds": str(len(results)), "recorded": ours, "this run": here, "of": " / ".join(measures)})
    return rows


def _usual(notebook: str, preset: str) -> dict[str, Any]:
    """The parameters of a preset."""
    return {**recipe(notebook).Parameters().values(), **parameters.preset(notebook[:2], preset)}


def state_of_the_art(
    notebook: str, preset: str, ours: Mapping[str, tuple[str, str]], *, folder: str | Path = ""
) -> list[dict[str, str]]:
    """One row a method of the paper's comparison, then our own, recorded at `preset`: mAP / rank-1 in percent.

    Args:
        notebook: "03" or "03_ranking".
        preset: size of the recorded runs.
        ours: title of a row -> variant, and ending of its metrics ("" or "_reranked"); on an archive by the paper's
            convention of AP.
        folder: where the result files are.

    >>> state_of_the_art("03", "quick", {})[0]["method"]
    'SPReID'
    """
    rows, printed = [], claims.printed(notebook)["state_of_the_art"]
    found, drawn = recorded(notebook, preset, folder=folder), _usual(notebook, preset)["dataset"] in CITIES
    convention = "mAP" if drawn else claims.printed(notebook)["our_runs"]["market"][0]  # of AP, as the paper has it
    for method, row in printed.items():
        cities = {f"paper, {city}": _map_and_rank1(row.get(city)) for city in ("market", "duke")}
        rows.append({"method": method, "features": str(row.get("features", "")), **cities, "recorded": ""})
    for method, (variant, ending) in ours.items():
        results = found.get(variant, [])
        names = ("mAP" + ending + convention.removeprefix("mAP"), "rank1" + ending)
        parts = [_spread([100 * result.metrics[name] for result in results]) for name in names]
        ours_text = " / ".join(parts) if results else NOT_RUN
        rows.append({"method": method, "features": "1", "paper, market": "", "paper, duke": "", "recorded": ours_text})
    if not any("features" in row for row in printed.values()):  # a paper that does not count them
        rows = [{name: text for name, text in row.items() if name != "features"} for row in rows]
    return rows


def printed(notebook: str, table: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """One row a method of a table of the paper, as printed; a dash where nothing is.

    Args:
        notebook: "04" or "04_sparse_smoothing".
        table: its name among `claims.printed`; each of its rows is a list of numbers.
        columns: what the numbers are.

    >>> printed("04", "viper", ["rank-1", "rank-5"])[0]
    {'method': 'ImprovedDeep', 'rank-1': '34.81', 'rank-5': '63.61'}
    """
    rows = claims.printed(notebook)[table].items()
    texts = {name: ["–" if value is None else f"{value:.2f}" for value in row] for name, row in rows}
    return [
        {"method": name} | dict(zip_longest(columns, row[: len(columns)], fillvalue="–")) for name, row in texts.items()
    ]


def effects(
    notebook: str, preset: str, sentences: Sequence[Effect] = (), *, folder: str | Path = ""
) -> list[dict[str, str]]:
    """One row a claim: the paired difference of its measure in points, in print and recorded, and the verdict.

    A claim about two variants that are the same run at this preset is left out (05 on archives: p = 0.1 and its own).

    Args:
        notebook: "02" or "02_baseline".
        preset: size of the runs.
        sentences: what is claimed; all of the notebook's `claims.effects` where left out.
        folder: where the result files are.
    """
    rows, results, usual = [], recorded(notebook, preset, folder=folder), _usual(notebook, preset)
    for effect in sentences or claims.effects(notebook):
        ours, theirs = (usual | recipe(notebook).VARIANTS[name].changes for name in (effect.variant, effect.against))
        if ours == theirs:
            continue
        printed, found = claims.points_in_print(notebook, effect), _found(results, effect)
        titles = [recipe(notebook).VARIANTS[name].title for name in (effect.variant, effect.against)]
        row = {"claim": effect.claim, "who says so": effect.source or "our question", "compared": " − ".join(titles)}
        row |= {"measure": effect.measure, "paper": "–" if printed is None else f"{printed:+.1f}"}
        row |= {"points": NOT_RUN, "95 % interval": "", "seeds": "0"}
        if found is not None:
            row |= {"points": f"{100 * found.difference:+.1f}", "seeds": str(found.seeds)}
            row |= {"95 % interval": f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"}
        rows.append(row | {"verdict": verdict(notebook, results, effect)})
    return rows


def side_by_side(
    notebook: str, presets: Mapping[str, str], sentences: Sequence[Effect] = (), *, folder: str | Path = ""
) -> list[dict[str, str]]:
    """One row a claim: what the paper prints, and for each world the points with their interval, and the verdict.

    Args:
        notebook: "02" or "02_baseline".
        presets: title of a world -> preset of the runs in it, such as {"drawn people": "tiny"}.
        sentences: what is claimed; all of the notebook's `claims.effects` where left out.
        folder: where the result files are.
    """
    sentences, rows = sentences or claims.effects(notebook), []
    worlds = {
        title: {row["claim"]: row for row in effects(notebook, preset, sentences, folder=folder)}
        for title, preset in presets.items()
    }
    for effect in sentences:
        printed = claims.points_in_print(notebook, effect)
        row = {"claim": effect.claim + f" ({effect.measure})" * (effect.measure != "mAP")}
        row["paper"] = "–" if printed is None else f"{printed:+.1f}"
        for title, found in worlds.items():
            one = found.get(effect.claim, {"points": "the same run", "seeds": "0", "verdict": ""})
            interval = f" ({one['95 % interval']}), {one['seeds']} seeds" if one["seeds"] != "0" else ""
            row |= {title: one["points"] + interval, f"{title}: verdict": one["verdict"]}
        rows.append(row)
    return rows


def verdict(notebook: str, results: Mapping[str, list[Result]], effect: Effect) -> str:
    """What recorded runs say of a claim, in the words of `Comparison.verdict`; of our own questions, "seen".

    Args:
        notebook: two digits.
        results: from `recorded`.
        effect: the claim.
    """
    if effect.untestable:
        return f"not testable here: {effect.untestable}"
    found, printed = _found(results, effect), claims.points_in_print(notebook, effect)
    if found is None:
        return NOT_RUN
    said = found.verdict(
        effect.direction,
        printed=None if printed is None else printed / 100,
        other_cause=_has_other_cause(results, effect),
    )
    return said if effect.source else said.replace("reproduces", "seen")


def _found(results: Mapping[str, list[Result]], effect: Effect) -> Comparison | None:
    return _compare(results, effect.variant, effect.against, effect.measure)


def _has_other_cause(results: Mapping[str, list[Result]], effect: Effect) -> bool:
    """Whether the claim's control has half of the effect or more, and `variant` is not seen to be ahead of it."""
    pairs = [(effect.variant, effect.control), (effect.control, effect.against), (effect.variant, effect.against)]
    lead, same, whole = (_compare(results, *pair, effect.measure) for pair in pairs)
    if not effect.control or lead is None or same is None or whole is None:
        return False
    ahead = lead.verdict(effect.direction) == "reproduces"
    return not ahead and effect.direction * (2 * same.difference - whole.difference) >= 0


def agreement(
    notebooks: Sequence[str], ours: str, theirs: str, *, metric: str = "mAP", folder: str | Path = ""
) -> tuple[Agreement, list[dict[str, Any]]]:
    """How far two worlds rank the same variants alike, over all variants that were run in both.

    Args:
        notebooks: whose variants count.
        ours, theirs: presets, one a world.
        metric: key of the recorded metrics.
        folder: where the result files are.

    Returns:
        Kendall's tau with its interval, and a row a variant: notebook, variant, title, and the mean in either world.

    Raises:
        ValueError: fewer than three variants were run in both.
    """
    rows, values = [], []
    for notebook in notebooks:
        worlds = {preset: recorded(notebook, preset, folder=folder) for preset in (ours, theirs)}
        for variant, (title, _) in recipe(notebook).VARIANTS.items():
            if all(variant in found for found in worlds.values()):
                numbers = [[result.metrics[metric] for result in found[variant]] for found in worlds.values()]
                means = dict(zip(worlds, map(mean, numbers), strict=True))
                rows.append({"notebook": notebook, "variant": variant, "title": title} | means)
                values.append(numbers)
    return comparison.agreement(*([row[k] for row in values] for k in (0, 1))), rows


def power(
    notebook: str, preset: str, *, points: Sequence[float] = (1, 2, 5), folder: str | Path = ""
) -> list[dict[str, str]]:
    """How many paired seeds each comparison needs to see a difference of so many points of its measure, 4 times in 5.

    Comparisons of fewer than three seeds are left out: their spread is not known.
    """
    rows, results = [], recorded(notebook, preset, folder=folder)
    for effect in claims.effects(notebook):
        found = _compare(results, effect.variant, effect.against, effect.measure)
        if found is not None and found.seeds >= 3 and found.spread > 0:
            row = {"compared": effect.claim, "spread over seeds, points": f"{100 * found.spread:.1f}"}
            rows.append(row | {f"+{p:g} points": f"{seeds_needed(p / 100, found.spread)} seeds" for p in points})
    return rows


def difference(
    notebook: str, preset: str, variant: str, against: str, *, measure: str = "mAP", folder: str | Path = ""
) -> Comparison | None:
    """Compare two variants over the seeds that both have results for; None where there is none."""
    return _compare(recorded(notebook, preset, folder=folder), variant, against, measure)


def _compare(results: Mapping[str, list[Result]], variant: str, against: str, measure: str) -> Comparison | None:
    ours, theirs = ({result.seed: result for result in results.get(name, [])} for name in (variant, against))
    pairs = [_pair(ours[seed], theirs[seed], measure) for seed in sorted(ours.keys() & theirs.keys())]
    return compare(pairs, shared=not _own_cities(list(ours.values()))) if pairs else None


def _map_and_rank1(percent: Sequence[float | None] | None) -> str:
    """ "88.9 / 94.9" (and rank-5, rank-10 where they are printed), or a dash; a dash for each that is not printed."""
    return " / ".join("–" if value is None else f"{value:.1f}" for value in percent) if percent else "–"


def _pair(ours: Result, theirs: Result, measure: str) -> Pair:
    """mAP query by query, so that the interval knows the identities; any other measure as one number a seed."""
    if measure != "mAP":
        return Pair([ours.metrics[measure]], [theirs.metrics[measure]], [0])
    if ours.per_query["pid"] != theirs.per_query["pid"]:
        raise ValueError(f"{ours.name} and {theirs.name} were not tested with the same queries; run one of them again.")
    return Pair(ours.per_query["ap"], theirs.per_query["ap"], ours.per_query["pid"])


def _own_cities(results: Sequence[Result]) -> bool:
    """Whether each seed was tested on people of its own."""
    drawn = [result.params["city_seed"] for result in results if result.params.get("dataset") in CITIES]
    return len(set(drawn)) == len(results)


def _spread(values: Sequence[float]) -> str:
    """ "51.2 ± 3.0", "51.2" from a single run, or that there is none."""
    if not values:
        return NOT_RUN
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def text(rows: Sequence[dict[str, str]], *, markdown: bool = False) -> str:
    """Lay rows out in columns, or as a Markdown table.

    >>> print(text([{"a": "1", "b": "22"}], markdown=True))
    | a | b  |
    |---|----|
    | 1 | 22 |
    """
    if not rows:
        return "nothing recorded yet"
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    lines = [[name.ljust(width) for name, width in widths.items()]]
    lines += [[row[name].ljust(width) for name, width in widths.items()] for row in rows]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|" + "|".join("-" * (width + 2) for width in widths.values()) + "|", *body])
