"""reidkit: four person re-identification papers, from equation to verified table."""

__version__ = "0.1.0"
