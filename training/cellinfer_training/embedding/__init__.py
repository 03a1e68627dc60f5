"""Embeddings of single cells: the networks, weakly supervised learning of them, and their export."""
