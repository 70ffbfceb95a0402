"""RecBole's STAMP on PyTorch; a worker of the bench, in the peers' environment.

Batches lie ready in memory and its data loader is not used, to its advantage.
"""

import time

import numpy as np
import torch
import work
from recbole.model.sequential_recommender.stamp import STAMP


class Columns:
    """What the model asks of a data set."""

    def __init__(self, n_items):
        self.n_items = n_items

    def num(self, field):
        return self.n_items


CONFIG = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "item",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": 19,
    "device": torch.device("cpu"),
    "embedding_size": 100,
    "loss_type": "CE",
}


def prepare(batch_size, n_items=43_097, maxlen=19, steps=8):
    torch.manual_seed(0)
    model = STAMP(CONFIG, Columns(n_items + 1))  # and its row for padding
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    length = rng.integers(1, 9, (steps, batch_size))
    window = rng.integers(1, n_items + 1, (steps, batch_size, maxlen))
    window[np.arange(maxlen) >= length[:, :, None]] = 0
    target = rng.integers(1, n_items + 1, (steps, batch_size))
    batches = [
        {"item_list": windows, "length": lengths, "item": targets}
        for windows, lengths, targets in zip(
            *(torch.from_numpy(part) for part in (window, length, target))
        )
    ]

    def one_round():
        started = time.perf_counter()
        for batch in batches:
            optimizer.zero_grad()
            loss = model.calculate_loss(batch)
            loss.backward()
            optimizer.step()
        return steps * batch_size, time.perf_counter() - started

    return one_round


if __name__ == "__main__":
    work.serve(prepare)
