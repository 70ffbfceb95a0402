"""Import TensorFlow without its start-up messages.

TensorFlow logs the processors that it finds from C++, before any setting can stop it;
the lines differ between machines and belong in no notebook. So the import runs with the
error stream redirected, and the stream is shown only if the import fails::

    from lib.hardware.tensorflow import tf
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["tf", "without_notes"]


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors are still shown
sys.stderr.flush()
_stderr = os.dup(2)
with tempfile.TemporaryFile() as _buffer:
    os.dup2(_buffer.fileno(), 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()
        tf.keras.layers.Layer  # noqa: B018  loads Keras, which is lazy
    except BaseException:
        _buffer.seek(0)
        os.write(_stderr, _buffer.read())
        raise
    finally:
        os.dup2(_stderr, 2)
        os.close(_stderr)


@contextmanager
def without_notes() -> Iterator[None]:
    """Hides TensorFlow's informative messages; errors are still shown."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)
