"""Cities: people x cameras, rendered and written to disk in the layout of a real archive.

A city is rendered beside its final folder and moved there when it is complete, so a reader never meets half a city. A
build that was killed goes on where it stopped and ends with the same files; a finished city has a manifest.
"""

import csv
import dataclasses
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reidkit import code, files, progress
from reidkit.world import archives, scenes
from reidkit.world.archives import FIRST_DISTRACTOR, FIRST_JUNK, Archive, ImageSpec
from reidkit.world.cameras import Cameras, Knobs, Place, Pose, install, observe
from reidkit.world.chance import Dice
from reidkit.world.render import render
from reidkit.world.wardrobe import Person, dress

CHUNK = {"cpu": 2**18, "cuda": 2**22}  # pixels rendered at once


@dataclass(frozen=True)
class City:
    """What makes a city: how many cameras, where, what people wear, and how it lies on disk."""

    cameras: int
    season: str
    place: Place
    identities: float = 1.0  # factor on the preset's number of identities
    archive: Archive = archives.MARKET1501


@dataclass(frozen=True)
class Size:
    """How large a city of a preset is."""

    identities: int  # of training, and as many others of testing
    height: int  # pixels, unless the archive's images are smaller
    supersampling: float


CITY_SPECS = {
    "market": City(6, "summer", Place((2.4, 4.6), 1.0, (0.25, 0.90), (1.0, 1.0, 1.0), 0.0, 0.0, (0.0, 0.04))),
    "duke": City(8, "winter", Place((3.2, 6.2), 1.15, (0.05, 0.40), (1.06, 0.98, 0.86), -0.10, -0.06, (0.01, 0.05))),
    "auxiliary": City(
        15, "autumn", Place((2.6, 5.4), 1.05, (0.15, 0.70), (0.97, 1.0, 1.04), -0.04, -0.02, (0.0, 0.05)), 2.0
    ),
    "viper": City(
        2,
        "autumn",
        Place((1.8, 3.2), 1.0, (0.20, 0.80), (1.02, 1.0, 0.95), 0.0, 0.0, (0.0, 0.04)),
        archive=archives.VIPER,
    ),
    "cuhk03": City(
        10,
        "summer",
        Place((2.6, 5.0), 1.05, (0.1, 0.6), (0.98, 1.0, 1.0), -0.03, 0.0, (0.0, 0.05)),
        archive=archives.CUHK03,
    ),
    "street": City(  # the teacher's: real people's everyday looks, and boxes and pictures as surveillance has them
        24,
        "street",
        Place(
            height=(1.6, 3.4),
            distance=0.9,
            sunny=(0.0, 0.7),
            tint=(1.0, 1.0, 1.0),
            exposure=-0.08,
            saturation=-0.12,
            fog=(0.0, 0.03),
            contrast=(0.95, 1.55),
            sharpening=(0.0, 1.2),
            box_width=(0.60, 0.90),
            clutter=1.0,
        ),
        identities=8.0,
        archive=archives.STREET,
    ),
}
SIZES = {"quick": Size(48, 64, 2), "tiny": Size(150, 128, 1.5), "world": Size(750, 256, 1.5)}


@dataclass(frozen=True)
class Plan:
    """Everything that decides a city's bits."""

    city: str
    preset: str
    seed: int
    knobs: Knobs = field(default_factory=Knobs)

    def __post_init__(self) -> None:
        for what, value, known in (("city", self.city, CITY_SPECS), ("preset", self.preset, SIZES)):
            if value not in known:
                raise ValueError(f"There is no {what} {value!r}; choose one of {', '.join(known)}.")

    @property
    def key(self) -> int:
        """The seed of everything in it; two cities of one seed share nobody."""
        return 1000 * self.seed + list(CITY_SPECS).index(self.city)

    @property
    def size(self) -> tuple[int, int]:
        archive = CITY_SPECS[self.city].archive
        height = min(SIZES[self.preset].height, archive.tallest)
        return height, int(height * archive.aspect)

    @property
    def everybody(self) -> int:
        """Identities of training and testing together."""
        city = CITY_SPECS[self.city]
        return min(2 * int(SIZES[self.preset].identities * city.identities), city.archive.most)

    @property
    def identities(self) -> int:
        """Half of them."""
        return self.everybody // 2

    def describe(self) -> dict:
        """The manifest's first part: the plan, and the code that renders it."""
        return dataclasses.asdict(self) | {"code": code.digest("reidkit.world.city")}


def people(plan: Plan, keys: np.ndarray) -> Person:
    """The factors of identities of a city.

    >>> people(Plan("market", "quick", 0), np.array([1, 2])).height.shape
    torch.Size([2])
    """
    families = max(4, int(0.24 * plan.identities))
    season = CITY_SPECS[plan.city].season
    return dress(keys, seed=plan.key, season=season, look_alikes=plan.knobs.look_alikes, families=families)


def network(plan: Plan) -> Cameras:
    """The cameras of a city, with their painted scenes."""
    columns, clutter = _installed(plan), CITY_SPECS[plan.city].place.clutter
    painted = [scenes.paint((plan.key, i), float(height), clutter) for i, height in enumerate(columns["height"])]
    return Cameras.from_arrays(**columns, scene=torch.stack(painted).numpy())


def _installed(plan: Plan) -> dict[str, np.ndarray]:
    city = CITY_SPECS[plan.city]
    return install(city.cameras, city.place, seed=plan.key, knobs=plan.knobs)


def roster(plan: Plan) -> list[ImageSpec]:
    """All images of a city, as its archive names them."""
    city = CITY_SPECS[plan.city]
    unpainted = Cameras.from_arrays(**_installed(plan), scene=np.zeros((city.cameras, 1, 1, 1)))
    return city.archive.roster(plan.key, plan.everybody, unpainted, plan.knobs)


def moments(plan: Plan, rows: list[ImageSpec], cameras: Cameras) -> Pose:
    """The factors of images. Hand-drawn boxes fit; boxes of distractors and junk often fail."""
    keys, camids, shots, by_hand = (
        np.array([getattr(row, name) for row in rows]) for name in ("key", "camid", "shot", "by_hand")
    )
    pose = observe(keys, camids, shots, cameras, seed=plan.key, knobs=plan.knobs)
    dice = Dice(plan.key, keys)
    failed = torch.from_numpy((keys >= FIRST_JUNK) | ((keys >= FIRST_DISTRACTOR) & dice.coin("failed", 0.5)))
    side = np.where(dice.coin("failed side", 0.5), -0.45, 0.45)
    drawn = {
        "box_x": dice.uniform("failed x", -0.18, 0.18),
        "box_y": side,
        "box_scale": dice.uniform("failed scale", 0.6, 1.8),
    }
    fitting = {"box_x": 0.0, "box_y": 0.0, "box_scale": 1.06}
    changed = {}
    for name, fit in fitting.items():
        column = torch.where(torch.from_numpy(by_hand), torch.tensor(fit), getattr(pose, name))
        changed[name] = torch.where(failed, torch.from_numpy(np.asarray(drawn[name], np.float32)), column)
    return pose.replace(**changed)


def draw_rows(plan: Plan, rows: list[ImageSpec], cameras: Cameras, device: str = "cpu") -> tuple[Tensor, Person, Pose]:
    """Render some images of a city: (n, 3, h, w) uint8 on the CPU, and their factors."""
    person = people(plan, np.array([row.key for row in rows]))
    pose = moments(plan, rows, cameras)
    second = people(plan, pose.companion_pid.numpy())
    pixels = render(
        person.to(device),
        pose.to(device),
        cameras,
        plan.size,
        companion=second.to(device),
        supersampling=SIZES[plan.preset].supersampling,
    )
    return pixels.cpu(), person, pose


# ------------------------------------------------------------------------------------------------------- on disk
def build_city(
    out: str | Path,
    *,
    city: str = "market",
    preset: str = "quick",
    seed: int = 0,
    progress: bool = True,
    workers: int = 0,
    device: str = "cpu",
    knobs: Knobs | dict | None = None,
) -> Path:
    """Render a city into the folder `out`, in the layout of a real archive; do nothing if it is there already.

    Args:
        out: the folder of the archive: it gets the archive's own folders, the factors of each image (factors.csv) and
            camera (cameras.csv), and manifest.json.
        city: "market" (6 cameras, summer), "duke" (8 cameras, another place, winter) and "auxiliary" (15 cameras,
            autumn, twice as many identities) are laid out like Market-1501: bounding_box_train, bounding_box_test,
            query, gt_bbox; and so is "street" (24 cameras, many people with few images each, none cut by hand), whose
            looks are those of real archives: what the reference weights learn from. "viper" is laid out like VIPeR:
            cam_a and cam_b, one image of each identity in both, BMP. "cuhk03" is laid out like CUHK03: five pairs of
            cameras, an identity seen by one pair, up to five images a view, each boxed by a detector and by hand;
            cuhk03_release/cuhk-03.mat (needs h5py) and the folders of the new protocol,
            cuhk03-np/{detected,labeled}/{bounding_box_train,bounding_box_test,query}.
        preset: "quick" (48 + 48 identities, 64x32), "tiny" (150 + 150, 128x64) or "world" (750 + 750, 256x128); viper
            has at most 632 identities, at 64x24 or 128x48, and cuhk03 at most 1467.
        seed: another seed is another city with other people.
        progress: show a bar if a person watches.
        workers: processes; 0 takes one per core.
        device: "cpu", or "cuda": thousands of images a second, but pixels may differ by a grey level from the CPU's.
        knobs: what is hard, as `Knobs` or as a dict of its fields.

    Returns:
        `out`.

    Raises:
        ValueError: an unknown city, preset or knob; a library that the archive needs is missing; or `out` holds
            something that is not such a city.
    """
    plan = Plan(city, preset, seed, _knobs(knobs))
    needs = CITY_SPECS[city].archive.needs
    if needs and importlib.util.find_spec(needs) is None:
        raise ValueError(f"The city {city} is written with {needs}; install it: pip install 'reidkit[mat]'.")
    out = Path(out).absolute()
    if _finished(out, plan):
        return out  # it may lie where nothing can be written, not even a lock
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(out.parent / f".{out.name}.lock"):
        if _finished(out, plan):
            return out
        workshop = (
            out.parent / f".{out.name}.{hashlib.sha256(json.dumps(plan.describe()).encode()).hexdigest()[:8]}.part"
        )
        rows, cameras = roster(plan), network(plan)
        _draw_all(plan, rows, cameras, workshop, workers or os.cpu_count() or 1, device, progress)
        _write_tables(plan, rows, cameras, workshop, device)
        if out.exists():
            shutil.rmtree(out)
        os.replace(workshop, out)
    return out


def _knobs(knobs: Knobs | dict | None) -> Knobs:
    if isinstance(knobs, Knobs):
        return knobs
    known = {field.name for field in dataclasses.fields(Knobs)}
    if unknown := set(knobs or {}) - known:
        raise ValueError(f"There is no knob {', '.join(sorted(unknown))}; the world has {', '.join(sorted(known))}.")
    return Knobs(**(knobs or {}))


def _finished(out: Path, plan: Plan) -> bool:
    """Whether `out` is this city; an older one may be replaced, a stranger's folder may not."""
    if not out.exists() or not any(out.iterdir()):
        return False
    if not (out / "manifest.json").exists():
        raise ValueError(f"{out} is not empty and holds no city (no manifest.json); choose another folder or empty it.")
    return files.read_json(out / "manifest.json")["plan"] == json.loads(json.dumps(plan.describe()))


def _draw_all(
    plan: Plan, rows: list[ImageSpec], cameras: Cameras, workshop: Path, workers: int, device: str, show: bool
) -> None:
    """Render the missing images in several processes; this one is the first of them."""
    folders = {row.folder for row in rows}
    for folder in folders:
        (workshop / folder).mkdir(parents=True, exist_ok=True)
    workers = 1 if device != "cpu" or len(rows) < 400 else workers
    task = json.dumps([dataclasses.asdict(plan), str(workshop), workers])
    call = "import sys; from reidkit.world.city import help_draw; help_draw(*sys.argv[1:])"
    helpers = [subprocess.Popen([sys.executable, "-c", call, str(k), task]) for k in range(1, workers)]
    threads = torch.get_num_threads()
    bar = progress.bar(title=f"drawing {plan.city} ({plan.preset})", total=len(rows), unit="images", enabled=show)
    try:
        torch.set_num_threads(1 if device == "cpu" else threads)
        for _ in _draw_share(plan, rows, cameras, workshop, 0, workers, device):
            bar.update(len(_drawn(workshop, folders)) - bar.n)
        for helper in helpers:
            if helper.wait():
                raise OSError(f"A process that was drawing {workshop.name} failed; run the command again to go on.")
    finally:
        torch.set_num_threads(threads)
        bar.close()
        for helper in helpers:
            helper.kill()
            helper.wait()


def help_draw(share: str, task: str) -> None:
    """What a helper process runs; it stops when the process that started it is gone."""
    torch.set_num_threads(1)
    parent = os.getppid()
    plan, workshop, workers = json.loads(task)
    plan = Plan(**plan | {"knobs": Knobs(**plan["knobs"])})
    for _ in _draw_share(plan, roster(plan), network(plan), Path(workshop), int(share), workers, "cpu"):
        if os.getppid() != parent:
            sys.exit("the building process is gone")


def _drawn(workshop: Path, folders: set[str]) -> set[str]:
    """The images that are there; each was written whole."""
    there = [folder for folder in folders if (workshop / folder).is_dir()]
    return {
        f"{folder}/{file.name}" for folder in there for file in os.scandir(workshop / folder) if file.name[0] != "."
    }


def _draw_share(
    plan: Plan, rows: list[ImageSpec], cameras: Cameras, workshop: Path, share: int, workers: int, device: str
) -> Iterator[None]:
    """Render every `workers`-th chunk of the missing images, and yield after each."""
    size = max(1, CHUNK[device.split(":")[0]] // (plan.size[0] * plan.size[1]))
    chunks = [rows[i : i + size] for i in range(0, len(rows), size)][share::workers]
    done = _drawn(workshop, {row.folder for row in rows})
    cameras = cameras.to(device)
    for chunk in chunks:
        missing = [row for row in chunk if row.file not in done]
        if missing:
            pixels, _, pose = draw_rows(plan, missing, cameras, device)
            for row, image, quality in zip(
                missing, pixels.permute(0, 2, 3, 1).numpy(), pose.quality.tolist(), strict=True
            ):
                path = workshop / row.file
                files.write_bytes(path, archives.encode(image, quality, path.suffix))
        yield


def _write_tables(plan: Plan, rows: list[ImageSpec], cameras: Cameras, workshop: Path, device: str) -> None:
    """What lies beside the images: the ground truth, every factor of every image and camera; last the manifest.

    Scraps of killed processes go.
    """
    for scrap in workshop.rglob(".*"):
        scrap.unlink()
    CITY_SPECS[plan.city].archive.finish(workshop, rows, plan.key)
    person, pose = people(plan, np.array([row.key for row in rows])), moments(plan, rows, cameras)
    table = {"file": np.array([row.file for row in rows]), "pid": np.array([row.pid for row in rows])}
    _write_csv(workshop / "factors.csv", table | pose.columns() | person.columns())
    _write_csv(workshop / "cameras.csv", {"camid": np.arange(len(cameras))} | cameras.columns())
    counts = {folder: sum(row.folder == folder for row in rows) for folder in sorted({row.folder for row in rows})}
    files.write_json(
        workshop / "manifest.json", {"plan": plan.describe(), "counts": counts, "device": device.split(":")[0]}
    )


def _write_csv(path: Path, columns: dict[str, np.ndarray]) -> None:
    texts = [
        [f"{value:.4g}" for value in column] if column.dtype.kind == "f" else column.tolist()
        for column in columns.values()
    ]
    data = io.StringIO(newline="")
    writer = csv.writer(data, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*texts, strict=True))
    files.write_text(path, data.getvalue())
