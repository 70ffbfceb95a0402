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


@contextmanager
def _redirect_stderr() -> Iterator[None]:
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        except BaseException:
            buffer.seek(0)
            os.write(stderr, buffer.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors are still shown
with _redirect_stderr():
    import tensorflow as tf

    tf.config.list_physical_devices()
    tf.keras.layers.Layer  # noqa: B018  loads Keras, which is lazy


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
