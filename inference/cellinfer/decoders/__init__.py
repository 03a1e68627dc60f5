"""Decoders: network output to labels, one module per kind of output; the model card names the kind."""
