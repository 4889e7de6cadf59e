"""Loss portraits: one visual grammar for every loss that takes (embeddings, pids), and the map they live on."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.path import Path
from torch import Tensor

from reidkit.plots import style
from reidkit.plots.style import IDENTITIES, WIDTH, Numbers, as_array, by_name, canvas, styled

Loss = Callable[[Tensor, Tensor], Tensor]

# Four identities on the circle, degrees: one is tight, one is wide, and one image of the first strays into the second.
ANGLES = (96, 82, 70, 17, 48, 30, 6, -8, 118, 134, 147, 168, 205, 214, 240, 262)
NOTE = (
    "Each dot is an embedding, each colour an identity. Arrows: direction and relative size of −∂L/∂x along the circle "
    "(the largest of each loss has full length). A hollow dot feels no pull."
)


def portrait_points() -> tuple[Tensor, Tensor]:
    """Sixteen unit embeddings of four identities, (16, 2) float64 and (16,): the points of every loss portrait.

    >>> points, pids = portrait_points()
    >>> points.shape, pids.unique().tolist()
    (torch.Size([16, 2]), [0, 1, 2, 3])
    """
    angles = torch.deg2rad(torch.tensor(ANGLES, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1), torch.arange(4).repeat_interleave(4)


def pulls(loss: Loss, points: Tensor, pids: Tensor) -> tuple[float, np.ndarray]:
    """The loss, and for each point how strongly −∂L/∂x moves it along the circle (n,), positive = anticlockwise.

    >>> points, pids = portrait_points()
    >>> value, pull = pulls(lambda x, _: x[:, 0].sum(), points, pids)   # all are pulled to the left
    >>> bool(pull[0] > 0), bool(pull[-1] < 0)
    (True, True)
    """
    points = torch.nn.functional.normalize(points.double(), dim=1).requires_grad_()
    with torch.enable_grad():
        value = loss(points, pids)
        gradient = torch.autograd.grad(value, points)[0]
    tangent = torch.stack([-points[:, 1], points[:, 0]], dim=1)
    return value.item(), -(gradient * tangent).sum(1).detach().numpy()


def _circle(ax: Axes, line: str | tuple = "-") -> None:
    """Draw an empty portrait: the circle alone."""
    ax.add_patch(Circle((0, 0), 1, fill=False, edgecolor=style.PALE, linewidth=1, linestyle=line))
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
    ax.axis("off")


def _portrait(ax: Axes, loss: Loss, points: Tensor, pids: Tensor, *, scale: float = 1.0) -> float:
    """Draw one portrait and return the loss."""
    value, pull = pulls(loss, points, pids)
    strength = pull / (np.abs(pull).max() or 1.0)
    angles = torch.atan2(points[:, 1], points[:, 0]).numpy()
    _circle(ax)
    for rank, pid in enumerate(pids.unique()):
        colour, mine = IDENTITIES[rank % len(IDENTITIES)], (pids == pid).nonzero().flatten().numpy()
        for place, index in enumerate(mine[np.argsort(angles[mine])]):
            angle, pulled = angles[index], abs(strength[index]) > 0.01
            dot = {"markersize": 6.5 * scale, "markeredgecolor": colour, "markeredgewidth": 1.2}
            ax.plot(np.cos(angle), np.sin(angle), "o", markerfacecolor=colour if pulled else "white", zorder=3, **dot)
            if pulled:  # an arc outside the circle, in one of four lanes so that neighbours do not touch
                radius, along = (
                    1.12 + 0.07 * (2 * (rank % 2) + place % 2),
                    angle + np.linspace(0, 0.5 * strength[index], 24),
                )
                path = Path(radius * np.column_stack([np.cos(along), np.sin(along)]))
                head = 8 * scale * min(1, 0.5 + 2 * abs(strength[index]))
                look = {
                    "arrowstyle": "-|>",
                    "mutation_scale": head,
                    "linewidth": 1.4 * scale,
                    "shrinkA": 0,
                    "shrinkB": 0,
                }
                ax.add_patch(FancyArrowPatch(path=path, color=colour, zorder=2, **look))
    return value


@styled
def loss_portraits(
    losses: Mapping[str, Loss], *, points: Numbers | None = None, pids: Numbers | None = None, title: str = ""
) -> Figure:
    """Where each loss moves sixteen embeddings on the circle: its gradient as arrows, its value in the middle.

    Args:
        losses: name to a loss of (embeddings (n, 2) float64 unit rows, pids (n,) int64) that returns a scalar.
        points, pids: (n, 2) and (n,), normalised before use; those of `portrait_points` if not given.
        title: the finding.

    Raises:
        ValueError: no loss, or points and pids that do not fit each other.

    >>> fig = loss_portraits({"spread": lambda x, pids: -torch.pdist(x).mean()})
    >>> fig.axes[0].get_title()
    'spread'
    """
    if (points is None) != (pids is None):
        raise ValueError("points and pids belong together; give both or neither.")
    if points is None:
        points, pids = portrait_points()
    points = torch.tensor(as_array("points", points, None, 2), dtype=torch.float64)
    pids = torch.tensor(as_array("pids", pids, len(points)), dtype=torch.int64)
    columns = min(4, len(by_name("losses", losses)))
    rows, side = -(-len(losses) // columns), WIDTH / max(columns, 3)
    fig, axes = canvas(rows, columns, height=(side + 0.1) * rows + 0.4, width=side * columns, title=title, note=NOTE)
    for ax, (name, loss) in zip(axes.flat, losses.items(), strict=False):
        value = _portrait(ax, loss, points, pids)
        ax.text(0, 0, f"L = {value:.3f}", ha="center", va="center", color=style.GREY)
        ax.set_title(name, loc="center", fontweight="bold")
    for ax in axes.flat[len(losses) :]:
        ax.remove()
    return fig


@styled
def course_map(
    papers: Mapping[str, tuple[float, float, Loss | None]], *, xticks: Sequence[str], yticks: Sequence[str],
    xlabel: str, ylabel: str, title: str = ""
) -> Figure:  # fmt: skip
    """The papers on two axes, each as the portrait of its loss.

    Args:
        papers: name to (x, y, loss); x counts along `xticks` and y along `yticks`, both from 0. A paper whose loss is
            None has its place, as a dashed circle.
        xticks, yticks: the stages along the axes, from left and from below.
        xlabel, ylabel: what the axes are.
        title: the finding.

    Raises:
        ValueError: no paper, or one that lies outside the axes.

    >>> spread = lambda x, pids: -torch.pdist(x).mean()
    >>> papers = {"A": (0, 0, spread), "still to come": (1, 0, None)}
    >>> fig = course_map(papers, xticks=["pairs", "lists"], yticks=["all"], xlabel="compares", ylabel="labels")
    >>> [len(frame.lines) for frame in fig.axes[0].child_axes]
    [16, 0]
    """
    ax = canvas(height=1.45 * len(yticks) + 0.8, title=title)[1][0, 0]
    ax.set(xlim=(-0.5, len(xticks) - 0.5), ylim=(-0.5, len(yticks) - 0.5), xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(range(len(xticks)), xticks)
    ax.set_yticks(range(len(yticks)), yticks)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for stage in range(0, len(yticks), 2):
        ax.axhspan(stage - 0.5, stage + 0.5, color=style.PAPER, zorder=0)
    for name, (x, y, loss) in by_name("papers", papers).items():
        if not (-0.5 <= x <= len(xticks) - 0.5 and -0.5 <= y <= len(yticks) - 0.5):
            raise ValueError(f"{name} is at ({x}, {y}); the map has {len(xticks)} x {len(yticks)} stages, from 0.")
        inset = ax.inset_axes((x - 0.45, y - 0.32, 0.9, 0.8), transform=ax.transData)
        look = {"fontweight": "bold"} if loss else {"color": style.GREY}
        if loss:
            _portrait(inset, loss, *portrait_points(), scale=0.62)
        else:
            _circle(inset, line=(0, (4, 3)))
        ax.text(x, y - 0.44, name, ha="center", va="bottom", fontsize=8, zorder=6, **look)
    return ax.figure
