"""The command line: `reidkit world` draws a city. Each command loads only what it needs, so `--help` is quick."""

from pathlib import Path

import click

import reidkit


class _OneLine(click.Group):
    """Commands whose errors are one sentence on standard error and exit code 1, without a traceback."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (ValueError, OSError, FloatingPointError) as error:
            raise click.ClickException(" ".join(str(error).split())) from None


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(reidkit.__version__, prog_name="reidkit")
def main() -> None:
    """Four person re-identification papers, from equation to verified table."""


@main.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--city", default="market", help="Which network of cameras: market, duke or auxiliary.")
@click.option("--preset", default="quick", help="How many people, at which size: quick, tiny or world.")
@click.option("--seed", default=0, help="Another seed draws other people, cameras and walks.")
@click.option("--workers", default=0, help="Processes that draw; 0 takes one per core.")
@click.option("--device", default="cpu", help="Where the pixels are computed: cpu or cuda.")
def world(out: Path, city: str, preset: str, seed: int, workers: int, device: str) -> None:
    """Draw a city of synthetic people into the folder OUT, in the layout of Market-1501."""
    from reidkit.data.layouts import market1501
    from reidkit.world.city import build_city

    archive = build_city(out, city=city, preset=preset, seed=seed, workers=workers, device=device)
    click.echo(archive)
    for part, counts in market1501(archive).counts().items():
        click.echo(f"{part}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
