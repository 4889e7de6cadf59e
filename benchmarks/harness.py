"""Time a piece of the library beside its floor and its peers, in one run, and say whether the bars are met.

A script of benchmarks names its rows and hands them over:

    def label_estimation(options: harness.Options) -> harness.Row:
        n = 400 if options.quick else 12_185
        x, labelled = draw(n)                                 # the data are made here, outside the clock
        faiss = harness.peer("faiss")                         # the module, or None where it is not installed
        return harness.Row(
            "Nearest label: 12,185 x 751, d 2048",
            {
                "reidkit": lambda: nearest_label(x, labelled),   # the library always comes first
                "floor: NumPy product": lambda: product(x, labelled),
                "faiss": faiss and (lambda: by_faiss(faiss, x, labelled)),
                "row loop, ours": harness.Candidate(lambda: loop(x, labelled), rounds=1),
            },
            bars={"floor": 1.5, "row loop, ours": 40, "MB": 64},
            check=harness.close(0),                           # every result against the library's
            reported={"released loop": "17.1 s"},             # a peer that cannot be installed: not measured here
        )

    if __name__ == "__main__":
        harness.main(__file__, __doc__, {"nearest": label_estimation})

`python benchmarks/label_estimation.py [--quick] [--only nearest] [--device cuda] [--out DIR]` then measures, prints and
writes `benchmarks/results/label_estimation.nearest.json`. With --quick, sizes are small, one round is enough, and the
files go to build/benchmarks. A row against its size is a `Curve` of rows, and becomes one file.

How it is measured
    order   Candidates take turns, ROUNDS rounds, every second one backwards. A slow one may take part in fewer. A turn
            calls the candidate until MIN_SECONDS are over, so that milliseconds are measured too.
    time    On the CPU that of the process, user and system, not the clock on the wall: with one thread both are the
            same on a quiet computer, and on a busy one only the first stays. Threads that a candidate starts all the
            same count in full. On a GPU the clock. Ratios compare best times; the file keeps the others too.
    memory  Peak of the resident memory over a turn, less what was resident before. The kernel keeps that peak and
            forgets it on request (/proc/self/clear_refs), so the memory is that of the timed calls, not of others;
            freed memory is handed back first. The median over the turns; unknown where there is no /proc. The result is
            part of it. On a GPU: what torch allocated.
    threads One, for every library in the process.
    floor   Candidates called "floor: ..." do only what any exact method must. The fastest of them counts.
"""

import argparse
import ctypes
import gc
import importlib.util
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from reidkit import files, runs

RESULTS = Path(__file__).resolve().parent / "results"
QUICK = RESULTS.parents[1] / "build" / "benchmarks"
ROUNDS = 3
MIN_SECONDS = 0.25  # of a turn
PEERS = {  # name in the table -> distribution; what the extra `peers` installs
    "faiss": "faiss-cpu",
    "scikit-learn": "scikit-learn",
    "torchreid": "torchreid",
    "pytorch-metric-learning": "pytorch-metric-learning",
}


class Options(NamedTuple):
    """What the command line says: small sizes, where to work, and whether more than 8 GB may be taken."""

    quick: bool = False
    device: str = "cpu"
    large: bool = False


@dataclass(frozen=True)
class Candidate:
    """One way to do the work of a row.

    Attributes:
        run: does it once and returns the result (None: there is nothing to compare).
        rounds: takes part in so many rounds only.
        share: does this part of the work, for example 300 of 3,368 queries; time is divided by it, memory is not.
    """

    run: Callable[[], Any]
    rounds: int = ROUNDS
    share: float = 1.0


@dataclass(frozen=True)
class Row:
    """One piece of work, and all who do it.

    Attributes:
        title: the work and its size, as the table shows it.
        candidates: name to a function, a `Candidate`, or None for a peer that is not installed; the library first.
        bars: "floor": at most so many times the fastest floor's time; "MB": at most so much memory; "a second": at
            least so many items; any other name: at least so many times as fast as that candidate.
        check: (the library's result, another's) -> what is equal, as a phrase; raises ValueError if it is not.
        reported: peers that cannot be installed, to what others measured of them; shown, never counted.
        items: how many images (…) a call handles; the table then shows items a second.
    """

    title: str
    candidates: Mapping[str, Callable[[], Any] | Candidate | None]
    bars: Mapping[str, float] = field(default_factory=dict)
    check: Callable[[Any, Any], str] | None = None
    reported: Mapping[str, str] = field(default_factory=dict)
    items: int = 0


@dataclass(frozen=True)
class Curve:
    """Rows of growing size.

    Attributes:
        title: the work, as the figure shows it.
        axis: what grows.
        rows: size to a function that makes the row; only the library and a floor are needed.
        steeper: bar: the library's slope on logarithmic axes, less the floor's, is at most this.
    """

    title: str
    axis: str
    rows: Mapping[int, Callable[[], Row]]
    steeper: float = 0.1


def main(script: str, text: str, rows: Mapping[str, Callable[[Options], Row | Curve]], argv=None) -> None:
    """Command line of a script: measure each row, print it, write it to a JSON file of its own.

    Args:
        script: `__file__`; its stem begins the names of the files.
        text: `__doc__`, for --help; its first line heads the table.
        rows: name to a function that makes the row.
        argv: instead of the command line.

    Raises:
        SystemExit: 1, at the end, if a result differed.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it works")
    parser.add_argument("--only", default="", metavar="NAME", help=f"rows whose name begins so: {', '.join(rows)}")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the library and torch work")
    parser.add_argument("--large", action="store_true", help="also peers that take more than 8 GB of memory")
    parser.add_argument("--out", type=Path, help="folder of the JSON files")
    given = parser.parse_args(argv)
    options = Options(given.quick, given.device, given.large)
    folder = given.out or (QUICK if given.quick else RESULTS)
    different = []
    for place, (name, make) in enumerate(rows.items()):
        if not name.startswith(given.only):
            continue
        file = f"{Path(script).stem}.{name}" + ".cuda" * (options.device == "cuda")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the peers
            work = make(options)
            record = measure_curve(work, options) if isinstance(work, Curve) else measure(work, options)
        with one_thread():
            record |= {"provenance": runs.provenance(), "peers": versions()}
        record |= {"family": text.partition("\n")[0], "place": place, "quick": options.quick}
        files.write_json(folder / f"{file}.json", record)
        print(f"{file}\n{describe(record)}\n", flush=True)
        different += [file] * any(one.get("result", "").startswith("differs") for one in entries(record))
        del work
    if different:
        sys.exit(f"results differ in {', '.join(different)}")


def measure(row: Row, options: Options) -> dict[str, Any]:
    """Let the candidates of a row take turns; returns its record."""
    present = {name: _candidate(run) for name, run in row.candidates.items() if run is not None}
    ours = next(iter(present))
    seconds, memory = ({name: [] for name in present} for _ in range(2))
    first, verdicts = None, {}
    for turn in range(1 if options.quick else ROUNDS):
        for name in list(present)[:: -1 if turn % 2 else 1]:
            if turn >= present[name].rounds:
                continue
            with one_thread():
                result, times, extra = take_turn(present[name].run, options)
            seconds[name] += [t / present[name].share for t in times]
            memory[name].append(extra)
            if name == ours and not turn:
                first = result
            elif not turn and row.check and result is not None:
                verdicts[name] = _verdict(row.check, first, result)
    table = []
    for name, times in seconds.items():
        one = {"name": name, "best": min(times), "median": statistics.median(times), "times": times[:9]}
        one |= {"calls": len(times), "share": present[name].share}
        one["memory"] = statistics.median(memory[name]) if None not in memory[name] else None
        one |= {"per_second": row.items / one["best"]} if row.items else {}
        one |= {"result": verdicts[name]} if name in verdicts else {}
        table.append(one)
    missing = [name for name, run in row.candidates.items() if run is None]
    record = {"title": row.title, "candidates": table, "missing": missing, "reported": dict(row.reported)}
    return record | {"bars": [judge(what, bar, table) for what, bar in row.bars.items() if what not in missing]}


def measure_curve(curve: Curve, options: Options) -> dict[str, Any]:
    """Measure the rows of a curve; returns its record, with the slopes of the library and of the floor."""
    points = []
    for n, make in curve.rows.items():
        points.append({"size": n} | measure(make(), options))
        print(f"{n:>9,}  " + " · ".join(f"{one['name']} {amount(one)}" for one in points[-1]["candidates"]), flush=True)
    ours, floor = (slope(points, pick) for pick in (library, fastest_floor))
    bar = {"what": "slope", "bar": curve.steeper, "value": ours - floor, "met": ours - floor <= curve.steeper}
    return {"title": curve.title, "axis": curve.axis, "points": points, "slopes": [ours, floor], "bars": [bar]}


def take_turn(run: Callable[[], Any], options: Options) -> tuple[Any, list[float], int | None]:
    """Call until MIN_SECONDS are over; returns the last result, the seconds of each call, and the extra memory."""
    gc.collect()
    clock = time.perf_counter if options.device == "cuda" else time.process_time
    before, times = start_peak(options.device), []
    while not times or (sum(times) < MIN_SECONDS and not options.quick):
        result = None  # not two of them at a time
        start = clock()
        result = run()
        if options.device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    after = peak(options.device)
    return result, times, None if before is None or after is None else max(0, after - before)


def start_peak(device: str) -> int | None:
    """Forget the peak of the memory; returns the bytes in use now, None where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def peak(device: str) -> int | None:
    """Bytes: the most in use since `start_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def judge(what: str, bar: float, table: list[dict]) -> dict[str, Any]:
    """One bar of a row: what it is about, the value, and whether it is met (None where that is not known)."""
    ours = library(table)
    if what == "floor":
        value, at_most = ours["best"] / fastest_floor(table)["best"], True
    elif what == "MB":
        value, at_most = None if ours["memory"] is None else ours["memory"] / 1e6, True
    elif what == "a second":
        value, at_most = ours["per_second"], False
    else:
        value, at_most = next(one["best"] for one in table if one["name"] == what) / ours["best"], False
    met = None if value is None else value <= bar if at_most else value >= bar
    return {"what": what, "bar": bar, "value": value, "met": met}


def library(table: list[dict]) -> dict:
    """The candidate that is the library."""
    return table[0]


def fastest_floor(table: list[dict]) -> dict:
    """The fastest of the floors."""
    return min((one for one in table if one["name"].startswith("floor")), key=lambda one: one["best"])


def slope(points: list[dict], pick: Callable[[list[dict]], dict]) -> float:
    """Exponent with which the time of the picked candidate grows."""
    times = [pick(point["candidates"])["best"] for point in points]
    return float(np.polyfit(np.log([point["size"] for point in points]), np.log(times), 1)[0])


def close(tolerance: float, what: str = "equal") -> Callable[[Any, Any], str]:
    """A check: numbers, arrays or tensors (or tuples of them) that differ by at most `tolerance`."""

    def check(ours: Any, theirs: Any) -> str:
        pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
        arrays = [tuple(np.asarray(x.cpu() if isinstance(x, torch.Tensor) else x) for x in pair) for pair in pairs]
        worst = max(float(np.max(np.abs(np.subtract(a, b, dtype=np.float64)), initial=0)) for a, b in arrays)
        if not worst <= tolerance:
            raise ValueError(f"by {worst:.2g}, more than {tolerance:g}")
        return what if worst == 0 else f"{what} to {worst:.0e}"

    return check


def peer(module: str, name: str = "", *, file: str = "") -> Any:
    """A module, or something in it; None where it is not installed or does not run.

    Args:
        module: its name.
        name: of what is in it.
        file: load this file of the package only. torchreid needs it: it imports more than its distribution asks for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _load(module, file) if file else importlib.import_module(module)
    except Exception:  # whatever an old package runs into
        return None
    return getattr(found, name) if name else found


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for name, distribution in PEERS.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def one_thread():
    """One thread for torch and for every BLAS and OpenMP that is loaded; the old numbers come back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def entries(record: Mapping[str, Any]) -> list[dict]:
    """The candidates of a row, or of all rows of a curve."""
    return [one for point in record.get("points", [record]) for one in point["candidates"]]


def describe(record: Mapping[str, Any]) -> str:
    """A record in lines, for the terminal."""
    lines = [f"  {record['title']}"]
    for one in record.get("candidates", []):
        lines.append(f"  {one['name']:34} {amount(one):26} {one.get('result', '')}")
    for name in record.get("missing", []):
        lines.append(f'  {name:34} not installed: uv pip install -e ".[peers]"')
    for name, text in record.get("reported", {}).items():
        lines.append(f"  {name:34} reported elsewhere, not measured here: {text}")
    return "\n".join([*lines, *(f"  {verdict(bar)}" for bar in record["bars"])])


def amount(one: Mapping[str, Any]) -> str:
    """`0.55 s, +26 MB`, or `14,400/s, +3 MB`."""
    rate = f"{digits(one['per_second'])}/s" if "per_second" in one else duration(one["best"])
    if one["share"] != 1:
        return f"{rate} (part, scaled)"
    return rate if one["memory"] is None else f"{rate}, +{size(one['memory'])}"


def verdict(bar: Mapping[str, Any]) -> str:
    """`1.21x the floor (≤ 1.25)`, with MISSED before it if the bar is not met."""
    value, limit = bar["value"], bar["bar"]
    if value is None:
        return f"{bar['what']}: not measured"
    said = {
        "floor": f"{value:.2f}x the floor (≤ {limit:g})",
        "MB": f"+{value:.0f} MB (≤ {limit:g})",
        "a second": f"{digits(value)} a second (≥ {limit:g})",
        "slope": f"slope {value:+.2f} over the floor's (≤ {limit:g})",
    }.get(bar["what"], f"{value:.3g}x vs {bar['what']} (≥ {limit:g})")
    return said if bar["met"] else f"MISSED: {said}"


def duration(seconds: float) -> str:
    """Three digits of a time.

    >>> duration(0.01234), duration(192.3)
    ('12.3 ms', '192 s')
    """
    value, unit = (seconds, "s") if seconds >= 0.1 else (1e3 * seconds, "ms")
    return f"{digits(value)} {unit}"


def digits(value: float) -> str:
    """Three digits, or all before the point.

    >>> digits(2.5), digits(14403.2)
    ('2.5', '14,403')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(n_bytes: float) -> str:
    """Memory in MB, or in GB from 1 GB on."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _candidate(run: Callable[[], Any] | Candidate) -> Candidate:
    return run if isinstance(run, Candidate) else Candidate(run)


def _load(module: str, file: str) -> ModuleType:
    path = Path(importlib.util.find_spec(module).submodule_search_locations[0]) / file
    spec = importlib.util.spec_from_file_location(f"{module}_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def _verdict(check: Callable[[Any, Any], str], ours: Any, theirs: Any) -> str:
    try:
        return check(ours, theirs)
    except ValueError as error:
        return f"differs: {error}"


def _status(name: str) -> int | None:
    status = Path("/proc/self/status")
    found = re.search(rf"^{name}:\s+(\d+) kB", status.read_text(), re.M) if status.exists() else None
    return int(found[1]) * 1024 if found else None
