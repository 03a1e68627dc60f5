"""Compound activity: networks that predict hits of assays, how they learn, and their export."""
