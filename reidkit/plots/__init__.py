"""Every picture of the course, in one house style; each function returns a Figure and shows nothing by itself.

In a notebook the cell ends with `plt.show()`, which shows the figure once and closes it.
"""

from reidkit.plots.curves import (  # noqa: F401
    bars_with_interval,
    cmc_curve,
    distance_histogram,
    heatmap,
    knob_curve,
    knob_panels,
    lr_schedule,
    paired_scatter,
    training_curves,
)
from reidkit.plots.diagrams import average_precision_areas, flow, neighbour_steps, ranking_strip  # noqa: F401
from reidkit.plots.generated import cluster_panels, label_bars  # noqa: F401
from reidkit.plots.multilabels import camera_statistics, image_pairs, threshold_histogram  # noqa: F401
from reidkit.plots.pictures import contact_sheet, film_strip, ranked_lists  # noqa: F401
from reidkit.plots.portraits import course_map, loss_portraits, portrait_points  # noqa: F401
from reidkit.plots.progression import guesses, progression, selected_per_identity  # noqa: F401
from reidkit.plots.spaces import directions, feature_map_2d, feature_space, silhouettes  # noqa: F401
