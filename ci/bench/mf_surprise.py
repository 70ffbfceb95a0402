"""Surprise's SVD and SVD++ on the same split; a worker in the peers' environment."""

import time

import numpy as np
import pandas as pd
import work
from surprise import SVD, Dataset, Reader, SVDpp

from lib.data import ratings
from lib.evaluation import metrics

ALGORITHMS = {"SVD": SVD, "SVD++": SVDpp}


def prepare(algorithm, data_path="ml-1m", split="random", test_share=0.1, **options):
    data = ratings.load(data_path, split, test_share)
    train = data.train
    columns = {"user": train.user_idx, "item": train.item_idx, "rating": train.rating}
    trainset = Dataset.load_from_df(pd.DataFrame(columns), Reader())
    trainset = trainset.build_full_trainset()
    epochs = options.get("n_epochs", 20)

    def one_round():
        model = ALGORITHMS[algorithm](random_state=0, **options)
        started = time.perf_counter()
        model.fit(trainset)
        seconds = time.perf_counter() - started
        pairs = zip(data.test.user_idx.tolist(), data.test.item_idx.tolist())
        predicted = np.array([model.predict(user, item).est for user, item in pairs])
        errors = metrics.rating_metrics(predicted, data.test.rating)
        return epochs * len(train), seconds, errors

    return one_round


if __name__ == "__main__":
    work.serve(prepare)
