"""One file a paper: its variants as data, its `training_step`, and `run`, which the notebook, a study and the command
line all call."""

# notebook -> module
RECIPES = {
    "02": "baseline",
    "03": "ranking",
    "04": "sparse_smoothing",
    "05": "one_shot",
    "06": "soft_multilabel",
}  # notebook -> module
