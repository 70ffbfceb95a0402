"""Full-catalogue softmax cross-entropy with gradients of its own: the hot loop.

The gradient of the cross-entropy is ``softmax(z) - onehot(target)``, and the softmax is
there already when the loss is known. TensorFlow's own kernel computes it once more and
takes about half of a STAMP step on a CPU.
"""

from lib.hardware import device
from lib.hardware.tensorflow import tf

SMALLEST = 1e-37  # a probability from here on is a normal float32, and its log is exact


def matrix_product(a, b, dtype="float32", transpose_a=False, transpose_b=False):
    """``a @ b`` of float32 matrices whose entries are rounded to ``dtype``.

    A processor without bfloat16 instructions multiplies the rounded entries in float32,
    as those instructions do: the same rounding in half the time of TensorFlow's kernel.

    Returns:
        float32, with entries rounded to ``dtype``.
    """
    return tf.cast(_rounded_product(a, b, dtype, transpose_a, transpose_b), tf.float32)


def _rounded_product(a, b, dtype, transpose_a=False, transpose_b=False):
    """``matrix_product`` in the type that the processor leaves it in."""
    how = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    a, b = tf.cast(a, dtype), tf.cast(b, dtype)
    if dtype == "bfloat16" and not device.multiplies_bfloat16():
        outcome = tf.matmul(tf.cast(a, tf.float32), tf.cast(b, tf.float32), **how)
        return tf.cast(tf.cast(outcome, dtype), tf.float32)
    return tf.matmul(a, b, **how)


def _losses(logits, probabilities, targets):
    """``-log p_y`` for each row, also where ``p_y`` is too small for float32."""

    def of_targets(columns):
        return tf.cast(tf.gather(columns, targets, axis=1, batch_dims=1), tf.float32)

    def highest(columns):
        return tf.cast(tf.reduce_max(columns, axis=1), tf.float32)

    own = of_targets(probabilities)

    def safe():  # log p_y = z_y - z_max + log p_max, and p_max is at least 1 / n_items
        distance = highest(logits) - of_targets(logits)  # large terms cancel first
        return distance - tf.math.log(highest(probabilities))

    # Two passes over (batch, n_items) that hardly any batch needs.
    return tf.cond(tf.reduce_all(own > SMALLEST), lambda: -tf.math.log(own), safe)


@tf.custom_gradient
def _of_logits(logits, targets):
    probabilities = tf.nn.softmax(logits)  # (batch, n_items)

    def gradient(upstream):
        rows = tf.range(tf.shape(targets)[0], dtype=targets.dtype)
        place = tf.stack([rows, targets], axis=1)  # (batch, 2)
        scaled = probabilities * upstream[:, None]
        return tf.tensor_scatter_nd_sub(scaled, place, upstream), None

    return _losses(logits, probabilities, targets), gradient


def cross_entropy(targets, logits):
    """Cross-entropy of the softmax over all items; for ``compile(loss=...)``.

    Args:
        targets: int ``(batch,)`` or ``(batch, 1)``, columns of ``logits``.
        logits: float32 ``(batch, n_items)``, of any size.

    Returns:
        float32 ``(batch,)``, in nats.
    """
    return _of_logits(logits, _flat(targets))


def cross_entropy_of_product(targets, queries, items, dtype="float32"):
    """``cross_entropy(targets, queries @ items')``, with two passes less.

    With ``u`` the gradient that comes from above, one number a row, the gradients are
    ``u (P X - X_y)`` for the queries and ``P' (u Q)``, less ``u Q`` in the targets'
    rows, for the items: ``u`` and the 1 at each target meet arrays of (batch, d) and
    never one of (batch, n_items).

    ``P`` goes into products, which round it to ``dtype``. In bfloat16 it is rounded as
    soon as it is there, which saves two passes and moves a loss by at most 2^-8; the
    sums of its softmax are float32. float16 is too coarse near 0 to hold it earlier.

    Args:
        targets: int ``(batch,)`` or ``(batch, 1)``, rows of ``items``.
        queries: float32 ``(batch, d)``.
        items: float32 ``(n_items, d)``.
        dtype: of the inputs of the three matrix products; sums, loss and gradients are
            float32.

    Returns:
        float32 ``(batch,)``, in nats.
    """

    @tf.custom_gradient
    def of_product(queries, items, targets):
        logits = _rounded_product(queries, items, dtype, transpose_b=True)
        if dtype == "float16":
            logits = tf.cast(logits, tf.float32)
        probabilities = tf.nn.softmax(logits)

        def gradient(upstream):
            u = upstream[:, None]
            mean_item = matrix_product(probabilities, items, dtype)
            to_queries = u * (mean_item - tf.gather(items, targets))
            scaled = u * queries
            to_items = matrix_product(probabilities, scaled, dtype, transpose_a=True)
            to_items = tf.tensor_scatter_nd_sub(to_items, targets[:, None], scaled)
            return to_queries, to_items, None

        return _losses(logits, probabilities, targets), gradient

    return of_product(queries, items, _flat(targets))


def _flat(targets):
    return tf.cast(tf.reshape(targets, [-1]), tf.int32)
