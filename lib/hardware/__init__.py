"""Devices, precision and workers; the import of TensorFlow."""
