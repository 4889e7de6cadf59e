"""Sheets of person images: contact sheets, ranked lists, and one query's list as training goes on."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reidkit.data.records import JUNK
from reidkit.plots import style
from reidkit.plots.style import DPI, WIDTH, Numbers, as_array, by_name, sheet, styled, text_width

GAP, FRAMED_GAP = 0.07, 0.1  # inches between two images, without and with coloured frames
VERDICTS = {"right": (style.BLUE, "✓"), "wrong": (style.ORANGE, "✗"), "junk": (style.GREY, "–")}
LEFT, TOP, CAPTION = 0.06, 0.22, 0.31  # inches left of a query, above the first list, under each image


@runtime_checkable
class ImageSet(Protocol):
    """What the ranked lists read of a set of images (`reidkit.data.images.Images` is one)."""

    pixels: Numbers  # (n, 3, h, w) uint8
    pids: Numbers  # (n,)
    camids: Numbers  # (n,)


def _image(pixels: Numbers) -> np.ndarray:
    """(3, h, w) uint8 to (h, w, 3)."""
    array = as_array("an image", pixels, 3, None, None)
    if array.dtype != np.uint8:
        raise ValueError(f"an image holds {array.dtype}; give uint8 in 0..255 (undo the normalisation first).")
    return array.transpose(1, 2, 0)


def _place(ax: Axes, image: np.ndarray, corner: tuple, size: tuple, frame: str = style.PALE, line: float = 0.6) -> None:
    """Put an image with its top left corner at `corner` (inches) and a frame of `line` points around it."""
    x, y, width, height = (round(inches * DPI) / DPI for inches in (*corner, *size))  # whole pixels stay crisp
    look = {"aspect": "auto", "interpolation": "nearest" if image.shape[1] < width * DPI else "auto"}
    ax.imshow(image & 0xFC, extent=(x, x + width, y + height, y), zorder=2, **look)  # two bits less: half the file
    ax.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=frame, linewidth=line, zorder=3))


def _write(ax: Axes, text: str, x: float, y: float, size: float, colour: str = style.GREY, **look) -> None:
    """A text that hangs centred below (x, y)."""
    ax.text(x, y, text, ha="center", va="top", fontsize=size, color=colour, **look)


@styled
def contact_sheet(
    pixels: Numbers | Sequence[Sequence], *, columns: int = 10, row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (), captions: Sequence[str] = (), title: str = "", image_height: float = 128 / DPI
) -> Figure:  # fmt: skip
    """Lay out images in rows and columns.

    Args:
        pixels: (n, 3, h, w) or (rows, columns, 3, h, w) uint8, or a list of rows of (3, h, w) images, None for a hole.
        columns: images a row where `pixels` is one long list.
        row_titles, column_titles: one text each, or none.
        captions: a small text under each image, in reading order, or none.
        title: the finding.
        image_height: inches at most; smaller where the row would grow wider than a notebook.

    Raises:
        ValueError: another shape, floats instead of uint8, or another number of texts than rows, columns or images.

    >>> import torch
    >>> fig = contact_sheet(torch.zeros(6, 3, 8, 4, dtype=torch.uint8), columns=3, row_titles=["day", "night"])
    >>> len(fig.axes[0].images)
    6
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be at least 1.")
    if getattr(pixels, "ndim", 0) == 4:
        pixels = [pixels[start : start + columns] for start in range(0, len(pixels), columns)]
    rows = [[None if image is None else _image(image) for image in row] for row in pixels]
    images = [image for row in rows for image in row if image is not None]
    if not images:
        raise ValueError("pixels is empty; there is nothing to draw.")
    across = max(map(len, rows))
    texts = {"row_titles": (row_titles, len(rows)), "column_titles": (column_titles, across)}
    for name, (given, n) in (texts | {"captions": (captions, len(images))}).items():
        if len(given) not in (0, n):
            raise ValueError(f"{name} has {len(given)} texts; this sheet needs {n} (or none).")
    left = max((text_width(text, 8) + 0.1 for text in row_titles), default=0) + LEFT
    top = 0.22 if column_titles else 0.03
    aspect = images[0].shape[1] / images[0].shape[0]
    width = min(image_height * aspect, (WIDTH - left - 0.05) / across - GAP)
    height, pitch = width / aspect, width / aspect + GAP + 0.17 * bool(captions)
    fig, ax = sheet(left + across * (width + GAP), top + len(rows) * pitch - GAP, title=title)
    for column, text in enumerate(column_titles):
        _write(ax, text, left + column * (width + GAP) + width / 2, top - 0.18, 8, style.INK)
    for row, text in enumerate(row_titles):
        ax.text(left - 0.1, top + row * pitch + height / 2, text, ha="right", va="center", fontsize=8)
    places = [(x, y) for y, row in enumerate(rows) for x, image in enumerate(row) if image is not None]
    for (column, row), image, text in zip(places, images, captions or [""] * len(images), strict=True):
        x, y = left + column * (width + GAP), top + row * pitch
        _place(ax, image, (x, y), (width, height))
        _write(ax, text, x + width / 2, y + height + 0.03, 6.5)
    return fig


def ranking(
    dist: np.ndarray, pid: int, camid: int, pids: np.ndarray, camids: np.ndarray, *, keep_junk: bool = False
) -> np.ndarray:
    """Gallery indices from near to far, without junk (the query's own camera, or pid -1); ties in gallery order.

    >>> ranking(np.array([0.1, 0.4, 0.2, 0.3]), 7, 0, np.array([7, 7, -1, 5]), np.array([0, 1, 2, 0]))
    array([3, 1])
    """
    order = np.argsort(dist, kind="stable")
    return order if keep_junk else order[~_is_junk(pid, camid, pids, camids)[order]]


def _is_junk(pid: int, camid: int, pids: np.ndarray, camids: np.ndarray) -> np.ndarray:
    return (pids == JUNK) | ((pids == pid) & (camids == camid))


def _draw_lists(
    query: ImageSet, gallery: ImageSet, lines: Sequence[tuple[str, int, Numbers]], top_k: int, title: str, *,
    repeat: bool, keep_junk: bool = False
) -> Figure:  # fmt: skip
    """One line for each (name, query, distances): the query where `repeat` or first, the name, what was found."""
    shape = n_query, n_gallery = len(query.pids), len(gallery.pids)
    wrong = [row for _, row, _ in lines if not 0 <= row < n_query]
    if wrong or not lines or top_k < 1:
        raise ValueError(
            f"rows {wrong} and top_k {top_k}: name queries in 0..{n_query - 1}, and at least 1 image each."
        )
    pids, camids = (
        as_array("gallery.pids", gallery.pids, n_gallery),
        as_array("gallery.camids", gallery.camids, n_gallery),
    )
    shown, names = min(top_k, n_gallery), max(text_width(name, 8) for name, _, _ in lines)
    width = min(64 / DPI, (WIDTH - names - 0.3) / (shown + 1) - FRAMED_GAP)
    h, w = _image(query.pixels[0]).shape[:2]
    height, start, step = width * h / w, width + names + 0.3, width + FRAMED_GAP
    pitch = height + CAPTION + (TOP if keep_junk else 0.08)  # ranks above every list, or above the first
    fig, ax = sheet(start + shown * step, TOP + len(lines) * pitch - 0.05, title=title)
    _write(ax, "query", LEFT + width / 2, TOP - 0.19, 7)
    for line, (name, row, dist) in enumerate(lines):
        dist, y = as_array(f"dist {name}".strip(), dist, *shape)[row], TOP + line * pitch
        pid, camid, under = int(query.pids[row]), int(query.camids[row]), y + height + 0.055
        ax.text(start - 0.1, y + height / 2, name, ha="right", va="center", fontsize=8)
        if repeat or line == 0:
            _place(ax, _image(query.pixels[row]), (LEFT, y), (width, height), style.INK, 1.2)
            _write(ax, f"pid {pid}", LEFT + width / 2, under, 7, style.INK)
            _write(ax, f"cam {camid}", LEFT + width / 2, under + 0.125, 6)
        order = ranking(dist, pid, camid, pids, camids, keep_junk=keep_junk)[:top_k]
        junk = _is_junk(pid, camid, pids, camids)[order]
        for place, index in enumerate(order):
            colour, sign = VERDICTS["junk" if junk[place] else "right" if pids[index] == pid else "wrong"]
            rank, x = "junk" if junk[place] else place + 1 - junk[:place].sum(), start + place * step
            if keep_junk or line == 0:
                _write(ax, str(rank), x + width / 2, y - 0.19, 7)
            _place(ax, _image(gallery.pixels[index]), (x, y), (width, height), colour, 2.4)
            _write(ax, f"{sign} {dist[index]:.2f}", x + width / 2, under, 7, colour, fontweight="bold")
            _write(ax, f"cam {camids[index]}", x + width / 2, under + 0.125, 6)
    return fig


@styled
def ranked_lists(
    query: ImageSet, gallery: ImageSet, dist: Numbers, *, rows: Sequence[int] | None = None, top_k: int = 10,
    keep_junk: bool = False, title: str = ""
) -> Figure:  # fmt: skip
    """The nearest gallery images of some queries: right = blue frame and ✓, wrong = orange frame and ✗, junk left out.

    Args:
        query, gallery: images with `pixels` (n, 3, h, w) uint8, `pids` and `camids` (n,).
        dist: (n_q, n_g) distances, small is near; written under each image with its camera.
        rows: which queries; the first four if not given.
        top_k: how long the lists are.
        keep_junk: show junk too, in grey and without a rank.
        title: the finding.

    Raises:
        ValueError: sizes that do not fit each other, or a row that is no query.

    >>> from types import SimpleNamespace
    >>> people = SimpleNamespace(pixels=np.zeros((3, 3, 8, 4), "uint8"), pids=[1, 1, 2], camids=[0, 1, 1])
    >>> fig = ranked_lists(people, people, np.zeros((3, 3)), rows=[0])
    >>> [text.get_text() for text in fig.axes[0].texts if "0.00" in text.get_text()]
    ['✓ 0.00', '✗ 0.00']
    """
    rows = range(min(4, len(query.pids))) if rows is None else rows
    lines = [("", row, dist) for row in rows]
    return _draw_lists(query, gallery, lines, top_k, title, repeat=True, keep_junk=keep_junk)


@styled
def film_strip(
    query: ImageSet, gallery: ImageSet, dists: Mapping[str, Numbers], *, row: int = 0, title: str = ""
) -> Figure:
    """The ten nearest of one query at several moments, one under the other: learning seen as re-ordering.

    Args:
        query, gallery: images as in `ranked_lists`.
        dists: name of the moment ("epoch 0") to distances (n_q, n_g).
        row: which query.
        title: the finding.

    Raises:
        ValueError: sizes that do not fit each other, no moment, or a row that is no query.

    >>> from types import SimpleNamespace
    >>> people = SimpleNamespace(pixels=np.zeros((2, 3, 8, 4), "uint8"), pids=[1, 2], camids=[0, 1])
    >>> len(film_strip(people, people, {"epoch 0": np.eye(2), "epoch 1": 1 - np.eye(2)}).axes[0].images)
    3
    """
    moments = [(name, row, dist) for name, dist in by_name("dists", dists).items()]
    return _draw_lists(query, gallery, moments, 10, title, repeat=False)
