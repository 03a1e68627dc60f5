"""Readers: one module per plate layout, all behind one protocol; they find files and never decode pixels."""
