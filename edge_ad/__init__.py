"""edge-ad: train an inspector from good parts only and run it on an embedded GPU."""

__version__ = "0.1.0"
