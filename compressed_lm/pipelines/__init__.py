"""Several subpackages in a row: the demo, sweeps over a grid, refitted dictionaries."""
