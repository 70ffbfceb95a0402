"""Metrics, and the baselines that a model must beat."""
