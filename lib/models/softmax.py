"""Full-catalogue softmax cross-entropy with custom gradients: the hot loop.

The gradient of the cross-entropy is ``softmax(z) - onehot(target)``, and the forward
pass has computed that softmax already. TensorFlow's own kernel computes it again and
takes about half of a STAMP step on a CPU.
"""

from __future__ import annotations

from lib.hardware import device
from lib.hardware.tensorflow import tf

SMALLEST = 1e-37  # the logarithm is exact from here on: these are normal float32


def matrix_product(
    a: tf.Tensor, b: tf.Tensor, dtype: str = "float32", **transposed: bool
) -> tf.Tensor:
    """Multiplies float32 matrices whose entries are rounded to ``dtype``.

    ``transposed`` is ``transpose_a`` or ``transpose_b`` of ``tf.matmul``.

    A processor without bfloat16 instructions multiplies the rounded entries in float32,
    as those instructions do: the same rounding in half the time of TensorFlow's kernel.

    Returns:
        float32, with entries rounded to ``dtype``.
    """
    return tf.cast(_rounded_product(a, b, dtype, **transposed), tf.float32)


def _rounded_product(
    a: tf.Tensor, b: tf.Tensor, dtype: str, **transposed: bool
) -> tf.Tensor:
    """``matrix_product``, not cast back where the processor computes in ``dtype``."""
    a, b = tf.cast(a, dtype), tf.cast(b, dtype)
    if dtype == "bfloat16" and not device.multiplies_bfloat16():
        product = tf.matmul(
            tf.cast(a, tf.float32), tf.cast(b, tf.float32), **transposed
        )
        return tf.cast(tf.cast(product, dtype), tf.float32)
    return tf.matmul(a, b, **transposed)


def _losses(
    logits: tf.Tensor, probabilities: tf.Tensor, targets: tf.Tensor
) -> tf.Tensor:
    """``-log p_y`` for each row, also where ``p_y`` is too small for float32."""

    def pick_targets(columns: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(columns, targets, axis=1, batch_dims=1), tf.float32)

    def find_highest(columns: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.reduce_max(columns, axis=1), tf.float32)

    own = pick_targets(probabilities)

    def safe() -> tf.Tensor:
        # log p_y = z_y - z_max + log p_max, and p_max is at least 1 / n_items.
        distance = find_highest(logits) - pick_targets(logits)  # large terms cancel
        return distance - tf.math.log(find_highest(probabilities))

    # ``safe`` takes two passes over (batch, n_items); hardly any batch needs it.
    return tf.cond(tf.reduce_all(own > SMALLEST), lambda: -tf.math.log(own), safe)


def fused_cross_entropy(
    targets: tf.Tensor, queries: tf.Tensor, items: tf.Tensor, dtype: str = "float32"
) -> tf.Tensor:
    """Cross-entropy of the softmax of ``queries @ items'`` over all items.

    With ``u`` the upstream gradient, one number a row, the gradients are
    ``u (P X - X_y)`` for the queries and ``P' (u Q)``, less ``u Q`` in the targets'
    rows, for the items: ``u`` and the 1 at each target are applied to arrays of
    (batch, d) and never to one of (batch, n_items).

    ``P`` enters matrix products, which round it to ``dtype``. In bfloat16 the logits
    are rounded at once, which saves two passes and moves a loss by at most 2^-8; the
    sums of the softmax are float32. float16 is too coarse near 0 to round earlier.

    Args:
        targets: int ``(batch,)`` or ``(batch, 1)``, rows of ``items``.
        queries: float32 ``(batch, d)``.
        items: float32 ``(n_items, d)``.
        dtype: of the inputs of the three matrix products; sums, loss and gradients are
            float32.

    Returns:
        float32 ``(batch,)``, in nats.
    """
    targets = tf.cast(tf.reshape(targets, [-1]), tf.int32)

    @tf.custom_gradient
    def compute(queries: tf.Tensor, items: tf.Tensor) -> tuple:
        logits = _rounded_product(queries, items, dtype, transpose_b=True)
        if dtype == "float16":
            logits = tf.cast(logits, tf.float32)
        probabilities = tf.nn.softmax(logits)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            u = upstream[:, None]
            mean_item = matrix_product(probabilities, items, dtype)
            to_queries = u * (mean_item - tf.gather(items, targets))
            scaled = u * queries
            to_items = matrix_product(probabilities, scaled, dtype, transpose_a=True)
            to_items = tf.tensor_scatter_nd_sub(to_items, targets[:, None], scaled)
            return to_queries, to_items

        return _losses(logits, probabilities, targets), gradient

    return compute(queries, items)
