"""RouterDash: one URL in front of many inference servers, and figures that survive every failure."""

__version__ = "0.1.0"
