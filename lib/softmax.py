"""Full-catalogue softmax cross-entropy with a gradient of its own: the hot loop.

TensorFlow's own kernel takes about half of a STAMP step on a CPU. The gradient of the
cross-entropy is ``softmax(z) - onehot(target)``, and the softmax is there already when
the loss is known; one subtraction at each target finishes it.
"""

from lib.quiet import tf


@tf.custom_gradient
def _cross_entropy(logits, targets):
    probabilities = tf.nn.softmax(logits)  # (batch, n_items)
    # log softmax(z)_y = z_y - z_max + log p_max: p_max is at least 1 / n_items, so the
    # logarithm is safe for any logits, also where p_y itself is 0 in float32.
    highest = tf.reduce_max(logits, axis=1)
    of_highest = tf.math.log(tf.reduce_max(probabilities, axis=1))
    own = tf.gather(logits, targets, axis=1, batch_dims=1)
    rows = tf.range(tf.shape(targets)[0], dtype=targets.dtype)
    place = tf.stack([rows, targets], axis=1)  # (batch, 2)

    def gradient(upstream):
        scaled = probabilities * upstream[:, None]
        return tf.tensor_scatter_nd_sub(scaled, place, upstream), None

    return (highest - own) - of_highest, gradient  # large terms cancel first


def cross_entropy(targets, logits):
    """Cross-entropy of the softmax over all items; for ``compile(loss=...)``.

    Args:
        targets: int ``(batch,)`` or ``(batch, 1)``, columns of ``logits``.
        logits: float32 ``(batch, n_items)``, of any size.

    Returns:
        float32 ``(batch,)``, in nats.
    """
    return _cross_entropy(logits, tf.cast(tf.reshape(targets, [-1]), tf.int32))
