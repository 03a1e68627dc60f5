"""cellinfer: deep networks on microscope images, deployed."""

from cellinfer._version import __version__

__all__ = ["__version__"]
