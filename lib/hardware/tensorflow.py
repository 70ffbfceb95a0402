"""TensorFlow, imported without its start-up chatter: ``from lib.hardware.tensorflow
import tf``.

The lines that it prints while it looks for processors differ between machines and
belong in no notebook. They come from C++ before any setting can stop them, so the
import runs with the error stream set aside; if it fails, they are shown.
"""

import os
import sys
import tempfile
from contextlib import contextmanager

__all__ = ["no_notes", "tf"]


@contextmanager
def _stderr_set_aside():
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors are still shown
with _stderr_set_aside():
    import tensorflow as tf

    tf.config.list_physical_devices()
    tf.keras.layers.Layer  # noqa: B018  loads Keras, which is lazy


@contextmanager
def no_notes():
    """Keeps TensorFlow's notes on what it does from being shown; errors are shown."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)
