"""The lab around the recipes: many runs of one recipe, a notebook executed headless, and tables of what is recorded."""
