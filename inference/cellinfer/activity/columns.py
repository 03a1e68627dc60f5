"""Columns that tables of compounds have besides assays."""

from __future__ import annotations

COMPOUND, SMILES, GIVEN = "Metadata_Compound", "Metadata_SMILES", "Metadata_SMILES_Original"
KEY, SCAFFOLD, ROW, ROWS = "Metadata_InChIKey", "Metadata_Scaffold", "Metadata_Row", "Metadata_Merged_Rows"
FOLD = "Fold"
FOLDS = (FOLD, "Metadata_Fold", "fold")
"""What the column with folds may be called."""
