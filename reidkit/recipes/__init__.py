"""One file a paper: its variants as data, its `training_step`, and `run`, which the notebook, a study and the command
line all call."""

RECIPES = {"02": "baseline", "03": "ranking", "05": "one_shot", "06": "soft_multilabel"}  # notebook -> module
