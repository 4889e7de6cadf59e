"""How each archive names its files: one pure function a layout, `root -> Split`. Nothing is downloaded or written.

Where the archives come from, and what they may be used for, stands in data/README.md.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from reidkit.data.records import JUNK, Record, Split

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
MARKET_NAME = re.compile(r"^(-?\d+)_c(\d+)")  # 0002_c1s1_000451_03.jpg: identity 2, camera 1


def market1501(root: str | Path) -> Split:
    """Read a folder laid out like Market-1501-v15.09.15; the drawn cities have the same layout.

    Training identities come from `bounding_box_train`, queries from `query`, the gallery, with junk (pid -1) and
    distractors (pid 0), from `bounding_box_test`, multi-query images from `gt_bbox` if it is there. Files are sorted by
    name, cameras count from 0, and whatever is not an image (`Thumbs.db`) is passed over.

    Args:
        root: the folder that holds `bounding_box_train`, `query` and `bounding_box_test`.

    Returns:
        The split; its name is the folder's.

    Raises:
        ValueError: a folder is missing or has no image, a name does not start with `<pid>_c<camera>`, or junk lies
            among the training images or the queries.

    Source: L. Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015, and the archive's readme.

    >>> market1501("no/such/folder")
    Traceback (most recent call last):
    ValueError: no/such/folder does not exist; data/README.md says where each archive comes from and where it goes.
    """
    root = Path(root)
    train, query, gallery = (
        read_folder(folder) for folder in require_folders(root, "bounding_box_train", "query", "bounding_box_test")
    )
    for record in (*train, *query):
        if record.pid == JUNK:
            raise ValueError(f"{record.path} is junk (pid -1); junk belongs in {root / 'bounding_box_test'} only.")
    boxes = root / "gt_bbox"
    return Split(root.resolve().name, root, train, query, gallery, read_folder(boxes) if boxes.is_dir() else ())


def require_folders(root: Path, *names: str) -> list[Path]:
    """Return the folders `names` of `root`, or say what to do about those that are missing.

    Raises:
        ValueError: `root` or one of the folders is missing; if the archive lies one folder deeper, that one is named.
    """
    if not root.is_dir():
        raise ValueError(f"{root} does not exist; data/README.md says where each archive comes from and where it goes.")
    missing = [str(root / name) for name in names if not (root / name).is_dir()]
    if not missing:
        return [root / name for name in names]
    for deeper in sorted(path for path in root.iterdir() if path.is_dir()):
        if all((deeper / name).is_dir() for name in names):
            raise ValueError(f"{missing[0]} does not exist, but {deeper} holds such an archive: give that folder.")
    raise ValueError(f"{' and '.join(missing)} missing; data/README.md shows the layout that is expected.")


def read_folder(folder: Path, pattern: re.Pattern[str] = MARKET_NAME) -> tuple[Record, ...]:
    """Read a flat folder of images whose names tell identity and camera.

    Args:
        folder: the folder; hidden files and files that are not images are passed over.
        pattern: matches the start of a name; its groups are the pid and the camera, which the files count from 1.

    Returns:
        The records, sorted by file name.

    Raises:
        ValueError: no image in the folder, or names that do not fit; the first three are named.
    """
    names = sorted(image_names(path.name for path in folder.iterdir()))
    if not names:
        raise ValueError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); unpack the archive again.")
    matches = {name: pattern.match(name) for name in names}
    wrong = [name for name, match in matches.items() if match is None or int(match[2]) == 0]
    if wrong:
        raise ValueError(
            f"{folder}: {len(wrong)} of {len(names)} image names do not start with <pid>_c<camera from 1>, "
            f"as 0002_c1s1_000451_03.jpg does: {', '.join(wrong[:3])}{', …' if len(wrong) > 3 else ''}."
        )
    return tuple(Record(folder / name, int(match[1]), int(match[2]) - 1) for name, match in matches.items() if match)


def image_names(names: Iterable[str]) -> list[str]:
    """Keep the names of images: a known suffix in any case, and not hidden.

    >>> image_names(["0002_c1.jpg", "Thumbs.db", "._0002_c1.jpg", "0003_c2.PNG"])
    ['0002_c1.jpg', '0003_c2.PNG']
    """
    return [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")]
