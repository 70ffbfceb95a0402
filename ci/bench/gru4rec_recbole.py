"""RecBole's GRU4Rec on PyTorch, trained and judged; a worker of the bench.

It lives in the peers' environment. Batches are cut from the flat sessions, in a new
order every epoch, and its data loader is not used, to its advantage.
"""

import time

import clicks
import numpy as np
import torch
import work
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from stamp_recbole import CONFIG, Columns


def prepare(
    batch_size=512,
    epochs=5,
    steps=0,
    learning_rate=1e-3,
    dim=100,
    dropout=0.3,
    data_path="",
    evaluate_on="test",
    seed=0,
):
    """Trains ``epochs``, of ``steps`` or whole ones; with data it is judged, too."""
    train, test, n_items = clicks.load(data_path, evaluate_on)
    torch.manual_seed(seed)
    sizes = {"embedding_size": dim, "hidden_size": dim, "num_layers": 1}
    config = {**CONFIG, **sizes, "dropout_prob": dropout}
    model = GRU4Rec(config, Columns(n_items + 1))  # and its row for padding
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    rng = np.random.default_rng(seed)
    steps = steps or len(train) // batch_size

    def score(windows, lengths):
        model.train(False)
        windows, lengths = torch.from_numpy(windows), torch.from_numpy(lengths)
        with torch.no_grad():
            found = model.full_sort_predict({"item_list": windows, "length": lengths})
        return found[:, 1:].numpy()

    def one_round():
        model.train()
        started = time.perf_counter()
        for _ in range(epochs):
            order = rng.permutation(len(train))
            for step in range(steps):
                index = order[step * batch_size : (step + 1) * batch_size]
                cut = map(torch.from_numpy, clicks.cut_windows(train, index))
                optimizer.zero_grad()
                names = ("item_list", "length", "item")
                model.calculate_loss(dict(zip(names, cut))).backward()
                optimizer.step()
        seconds = time.perf_counter() - started
        found = clicks.evaluate(score, test) if data_path else {}
        return epochs * steps * batch_size, seconds, found

    return one_round


if __name__ == "__main__":
    work.serve(prepare)
