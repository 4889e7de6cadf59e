"""Retrieval metrics, re-ranking and clusters."""
