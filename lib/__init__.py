"""Code behind the notebooks: data, models, metrics, devices and records of runs."""

__version__ = "0.1.0"
