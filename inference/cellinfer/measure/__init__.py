"""Measurements: labels and images to tables, one module per family, columns named as in CellProfiler."""
