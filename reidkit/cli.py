"""The command line. Each command loads only what it needs, so `--help` is quick."""

import functools
from collections.abc import Callable
from pathlib import Path

import click


class _OneLine(click.Group):
    """Commands whose errors are one sentence on standard error and exit code 1, without a traceback."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (ValueError, OSError, FloatingPointError) as error:
            raise click.ClickException(" ".join(str(error).split())) from None


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="reidkit", prog_name="reidkit")
def main() -> None:
    """Four person re-identification papers, from equation to verified table."""


def _running(command: Callable) -> Callable:
    """The options that `run` and `study` have in common."""
    options = [
        click.argument("notebook"),
        click.option("--preset", default="quick", help="Size of the runs."),
        click.option("-p", "changes", type=(str, str), multiple=True, metavar="NAME VALUE", help="Another parameter."),
        click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write into."),
        click.option("--dry-run", is_flag=True, help="Check everything, and say what would be run."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--city", default="market", help="Which cameras: market, duke, auxiliary, street, viper or cuhk03.")
@click.option("--preset", default="quick", help="How many people, at which size: quick, tiny or world.")
@click.option("--seed", default=0, help="Another seed renders other people, cameras and walks.")
@click.option("--workers", default=0, help="Processes that render; 0 takes one per core.")
@click.option("--device", default="cpu", help="Where the pixels are computed: cpu or cuda.")
def world(out: Path, city: str, preset: str, seed: int, workers: int, device: str) -> None:
    """Render a city of synthetic people into the folder OUT, in the layout of a real archive.

    viper is laid out like VIPeR, cuhk03 like CUHK03, the others like Market-1501.
    """
    from reidkit.data import layouts
    from reidkit.world.city import build_city

    archive = build_city(out, city=city, preset=preset, seed=seed, workers=workers, device=device)
    click.echo(archive)
    cuhk03 = functools.partial(layouts.cuhk03, protocol="new")
    read = {"viper": layouts.viper, "cuhk03": cuhk03}.get(city, layouts.market1501)
    for part, counts in read(archive).counts().items():
        click.echo(f"{part}: {', '.join(f'{count} {name}' for name, count in counts.items())}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_context
def doctor(context: click.Context, folder: Path) -> None:
    """Say what the data set in FOLDER is, count it, and find what is wrong with it; nothing is written.

    Exit code: 0 nothing is wrong, 1 something is, 2 no layout was recognised (or the command was called wrongly).
    """
    from reidkit.data.doctor import examine

    report = examine(folder)
    click.echo(report)
    context.exit(report.exit_code)


@main.command()
@_running
def run(notebook: str, preset: str, changes: tuple[tuple[str, str], ...], out: Path | None, dry_run: bool) -> None:
    """Execute a notebook headless; killed and started again, it repeats no training that was done.

    NOTEBOOK is named by its two digits. The executed copy goes to runs/notebooks. Paths in parameters count from the
    working directory.
    """
    from reidkit.studies import notebook as headless

    plan = headless.plan(notebook, preset, changes, out)
    click.echo(headless.describe(plan)) if dry_run else headless.run(plan)


@main.command()
@_running
@click.option("--variants", default="", help="Which, with commas between them; names of groups too. All if empty.")
@click.option("--seeds", default="0,1,2", help="With commas between them.")
@click.option("--workers", default=0, help="Runs at a time; 0 takes one per GPU, or per core.")
@click.option("--engine", default="processes", type=click.Choice(["processes", "ray"]), help="What starts the runs.")
@click.option("--address", default="", help="Ray cluster to join, auto or host:port; else Ray runs here only.")
@click.option("--keep", is_flag=True, help="Leave results of older code alone.")
@click.option(
    "--verify", is_flag=True, help="Ask results of older code, by their probes of a few steps, whether they still hold."
)
def study(
    notebook: str,
    preset: str,
    changes: tuple[tuple[str, str], ...],
    out: Path | None,
    dry_run: bool,
    variants: str,
    seeds: str,
    workers: int,
    engine: str,
    address: str,
    keep: bool,
    verify: bool,
) -> None:
    """Run a recipe's variants x seeds, several at a time; killed and started again, it goes on.

    NOTEBOOK is named by its two digits. Result files go to figures/results, from where `reidkit table` reads them.
    """
    from reidkit import runs
    from reidkit.studies import notebook as headless
    from reidkit.studies import runner

    if {name for name, _ in changes} - {"data_root"} and out is None:
        raise ValueError("-p makes other runs than the preset's; name a folder for their results with --out.")
    changed = headless.parse(runner.recipe(notebook).Parameters, changes)
    jobs = runner.plan(notebook, preset, variants=_list(variants), seeds=_seeds(seeds), changes=changed)
    folder = out or runs.RESULTS
    where = {"workers": workers, "engine": engine, "address": address, "folder": folder}
    if engine == "processes":
        runner.check_all([job for job in jobs if job.state(folder) != "done"], folder)
    if dry_run:
        for job in jobs:
            state = job.state(folder)
            state += f", not run, needs {job.missing}" * bool(state != "done" and engine == "processes" and job.missing)
            click.echo(f"{job.name:40} {state}")
    elif verify:
        if different := runner.verify(jobs, **where):
            raise ValueError(
                f"{len(different)} runs came out differently: {', '.join(different)}; run them without --verify."
            )
    elif failed := runner.run_study(jobs, keep=keep, **where):
        raise ValueError(f"{len(failed)} of {len(jobs)} runs failed; the first: {failed[0]}. Logs are in runs/studies.")


@main.command()
@click.argument("notebook")
@click.option("--preset", default="tiny", help="Size of the runs.")
@click.option("--variants", default="", help="Which, with commas between them; names of groups too. All if empty.")
@click.option("--kind", default="all", type=click.Choice(["all", "ablation", "effects", "power"]))
@click.option("--markdown", is_flag=True, help="As Markdown.")
@click.option("--out", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of the result files.")
def table(notebook: str, preset: str, variants: str, kind: str, markdown: bool, folder: Path | None) -> None:
    """Rebuild the tables of a notebook from recorded results: means, paired differences, verdicts, seeds needed."""
    from reidkit.studies import tables

    where = {"folder": folder or ""}
    makers = {
        "ablation": lambda: tables.ablation(notebook, preset, _list(variants), **where),
        "effects": lambda: tables.effects(notebook, preset, **where),
        "power": lambda: tables.power(notebook, preset, **where),
    }
    for name in makers if kind == "all" else [kind]:
        click.echo(f"{name}, notebook {notebook}, {preset}; AP by mean precision, single query\n")
        click.echo(tables.text(makers[name](), markdown=markdown) + "\n")
    click.echo(tables.standing(notebook, preset, **where))


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in _list(text)]
    except ValueError:
        raise ValueError(f"seeds are whole numbers with commas between them, not {text!r}.") from None
