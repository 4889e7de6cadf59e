"""One file a paper: its parameters, its variants as data, its `training_step`, and `run`, which the notebook, a study
and the command line all call."""
