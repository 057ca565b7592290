"""Pipelines over several subpackages: demo, sweeps over a grid, dictionary refits."""
