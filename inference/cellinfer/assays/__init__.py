"""Assays: plate maps, how well controls separate, dose responses, and the verdict with its picture."""

from cellinfer.assays.verdict import AssayResult, assay

__all__ = ["AssayResult", "assay"]
