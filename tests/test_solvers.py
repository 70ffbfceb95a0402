"""Exact solvers: their equations, their distributions, and runs that repeat."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from lib.data import ratings
from lib.errors import InputError
from lib.hardware.device import Device
from lib.hardware.tensorflow import tf
from lib.models import mf, solvers
from lib.serving import export, recommend, trained, transfer
from lib.training import fit as training
from lib.training.schedule import Schedule

CPU = Device("cpu", "a processor", "must_keep_origin_dtype", "float32", "", ())
N_USERS, N_ITEMS = 40, 30


def make_ratings(n=400, seed=0, **order):
    """Ratings in half stars; user 3 and item 5 have none."""
    rng = np.random.default_rng(seed)
    pairs = rng.choice(N_USERS * N_ITEMS, n, replace=False)
    pairs = pairs[(pairs // N_ITEMS != 3) & (pairs % N_ITEMS != 5)]
    user, item = (pairs // N_ITEMS).astype(np.int32), (pairs % N_ITEMS).astype(np.int32)
    stars = rng.integers(2, 11, len(pairs)).astype(np.float32) / 2
    return ratings.Part(user, item, stars, np.zeros(len(pairs), np.int64))


def make(solver, part=None, **options):
    part = make_ratings() if part is None else part
    network = mf.SampledMF if solver == "gibbs" else mf.MF
    extension = (
        {"extension": options.pop("extension")} if "extension" in options else {}
    )
    samples = {"samples": 32} if solver == "gibbs" else {}
    options = {"latent_dim": 3, "regularization": 0.1, "seed": 1, **samples, **options}
    model = network(N_USERS, N_ITEMS, 3.25, **options)
    return solvers.SOLVERS[solver](model, part, part, CPU, **extension)


def rows_of(model):
    """Factors and biases of users and items, in float64."""
    return [
        np.hstack([np.asarray(getattr(model, name)) for name in names]).astype("f8")
        for names in (("p", "user_bias"), ("q", "item_bias"))
    ]


def solve_directly(own, other, residual_of, part, rows, penalty):
    """Each row's ridge regression, on its own, in float64."""
    solved = np.zeros((rows, other.shape[1]))
    z = np.hstack([other[:, :-1], np.ones((len(other), 1))])
    for row in range(rows):
        rated = own[row == own[:, 0], 1]
        if not len(rated):
            continue
        target = residual_of(row) - other[rated, -1]
        left = z[rated].T @ z[rated] + len(rated) * penalty * np.eye(z.shape[1])
        solved[row] = np.linalg.solve(left, z[rated].T @ target)
    return solved


def test_a_sweep_of_als_equals_a_direct_solution_for_each_row():
    solver, part = make("als"), make_ratings()
    items = solver.items.numpy().astype("f8")
    solver.sweep(1, 2)
    by_user = np.stack([part.user_idx, part.item_idx], 1)
    stars = part.rating.astype("f8") - 3.25
    users = solve_directly(
        by_user, items, lambda u: stars[part.user_idx == u], part, N_USERS, 0.1
    )
    found_users, found_items = rows_of(solver.model)
    np.testing.assert_allclose(found_users, users, atol=2e-5)
    items = solve_directly(
        by_user[:, ::-1],
        users,
        lambda i: stars[part.item_idx == i],
        part,
        N_ITEMS,
        0.1,
    )
    np.testing.assert_allclose(found_items, items, atol=2e-5)


def test_the_loss_of_als_is_that_of_the_model_and_never_rises():
    part = make_ratings()
    solver = make("als", part)
    pairs = np.stack([part.user_idx, part.item_idx], 1)
    losses = []
    for sweep in range(12):
        losses.append(solver.sweep(sweep, 12))
        error = np.asarray(solver.model(pairs))[:, 0] - part.rating
        expected = np.mean(error**2) + float(solver.model.losses[-1])
        assert losses[-1] == pytest.approx(expected, rel=1e-5)
    assert np.diff(losses).max() < 1e-6
    assert losses[-1] < 0.95 * losses[0]


def test_als_starts_with_the_main_directions_of_the_centred_ratings(monkeypatch):
    monkeypatch.setattr(solvers, "POWER", 200)
    monkeypatch.setattr(solvers, "DAMPING", 0.0001)
    solver, part = make("als"), make_ratings()
    matrix = np.zeros((N_USERS, N_ITEMS))
    rated = np.zeros_like(matrix)
    rated[part.user_idx, part.item_idx] = 1
    matrix[part.user_idx, part.item_idx] = part.rating - 3.25
    matrix -= rated * (matrix.sum(0) / (rated.sum(0) + 0.0001))
    matrix -= rated * (matrix.sum(1) / (rated.sum(1) + 0.0001))[:, None]
    directions = np.linalg.svd(matrix)[2][:3]
    found = solver._start()[:, :3]
    inside = directions @ (found / np.linalg.norm(found, axis=0))
    np.testing.assert_allclose(np.linalg.svd(inside)[1], 1, atol=1e-3)


def test_without_biases_als_solves_for_factors_alone():
    solver = make("als", use_bias=False)
    losses = [solver.sweep(k, 5) for k in range(5)]
    assert np.diff(losses).max() < 1e-6
    assert not hasattr(solver.model, "user_bias")


@pytest.mark.parametrize("name", ["als", "gibbs"])
def test_order_padding_and_chunks_change_nothing(name, monkeypatch):
    part = make_ratings()
    first = make(name, part)
    first.sweep(1, 2)
    n_batches = len(list(first.sides[0].batches()))
    monkeypatch.setattr(solvers, "UNEVEN", 0.0)  # more padding
    monkeypatch.setattr(solvers, "CHUNK", 50)  # the rest lies in files
    order = np.random.default_rng(5).permutation(len(part))
    second = make(name, part.take(order))
    assert isinstance(second.sides[0].others, np.memmap)
    assert len(list(second.sides[0].batches())) < n_batches
    second.sweep(1, 2)  # without the start, which many ratings are not needed for
    for table in ("users", "items"):
        np.testing.assert_allclose(
            getattr(first, table).numpy(), getattr(second, table).numpy(), atol=1e-4
        )


@pytest.mark.parametrize("block", [4, 64])
def test_every_rating_is_in_one_batch_beside_rows_of_similar_counts(block, monkeypatch):
    """A row with more ratings than a batch of 4 has a batch of its own."""
    monkeypatch.setattr(solvers, "BLOCK", block)
    part = make_ratings()
    side = make("als", part).sides[0]
    seen, n_rows = [], 0
    for rows, others, targets in side.batches():
        n_rows += len(rows)
        assert len(rows) == 1 or targets.size <= block
        counts = (others.numpy() < N_ITEMS).sum(axis=1)
        assert counts.min() >= solvers.UNEVEN * counts.max()
        for row, items, stars in zip(rows, others.numpy(), targets):
            seen += [(row, i, s) for i, s in zip(items, stars) if i < N_ITEMS]
            assert not stars[items == N_ITEMS].any()
    columns = part.user_idx, part.item_idx, part.rating - np.float32(3.25)
    assert sorted(seen) == sorted(zip(*(c.tolist() for c in columns)))
    assert n_rows == N_USERS


def copies(items, stars, n_users):
    """``n_users`` users who have all rated the same items alike."""
    n = len(items) * n_users
    user = np.repeat(np.arange(n_users, dtype=np.int32), len(items))
    item = np.tile(np.array(items, np.int32), n_users)
    rating = np.tile(np.array(stars, np.float32), n_users)
    return ratings.Part(user, item, rating, np.zeros(n, np.int64))


def test_drawn_rows_have_the_mean_and_the_covariance_of_their_distribution():
    """With everything else fixed: 20,000 users alike against their exact normal."""
    n, alpha = 20_000, 0.7
    part = copies([0, 2, 3], [4, 2.5, 5], n)
    model = mf.SampledMF(n, 4, 3.25, latent_dim=1, samples=1)
    solver = solvers.Gibbs(model, part, part, CPU)
    rng = np.random.default_rng(2)
    items = rng.normal(0, 1, (4, 2)).astype(np.float32)
    precision = np.array([[2.0, 0.3], [0.3, 1.0]], np.float32)
    centre = np.array([0.5, -0.2], np.float32)
    noise = rng.standard_normal((n, 2), np.float32) / np.float32(alpha**0.5)
    solver.items.assign(items)
    prior = precision / np.float32(alpha), centre
    solver.solve_rows(0, np.ones(n, np.float32), prior, noise)
    draws = solver.users.numpy()
    rated = items[[0, 2, 3]].astype(np.float64)
    z = np.stack([rated[:, 0], np.ones(3)], axis=1)
    target = np.array([4, 2.5, 5]) - 3.25 - rated[:, 1]
    covariance = np.linalg.inv(precision + alpha * z.T @ z)
    mean = covariance @ (precision @ centre + alpha * z.T @ target)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.02)


def test_the_prior_is_drawn_around_the_moments_of_the_rows():
    rng = np.random.default_rng(0)
    root = np.array([[1.0, 0.0], [0.5, 2.0]])
    rows = (rng.standard_normal((50_000, 2)) @ root.T + [1.0, -2.0]).astype(np.float32)
    draws = [solvers.draw_prior(rows, rng) for _ in range(200)]
    precision, centre = (np.mean(part, axis=0) for part in zip(*draws))
    np.testing.assert_allclose(np.linalg.inv(precision), np.cov(rows.T), rtol=0.02)
    np.testing.assert_allclose(centre, rows.mean(axis=0), atol=0.01)
    spread = np.std([draw[1] for draw in draws], axis=0)
    np.testing.assert_allclose(spread, rows.std(axis=0) / 50_000**0.5, rtol=0.2)


def test_a_chain_has_the_posterior_of_a_model_that_can_be_integrated():
    """8,000 pairs of a user and an item, each a chain, against sums over a grid."""
    n, stars = 8000, np.array([4, 5, 4, 4.5, 3.5, 4])
    part = copies(6 * [0], stars, n)
    part.item_idx[:] = part.user_idx
    model = mf.SampledMF(n, n, 3.0, latent_dim=1, samples=1, seed=3)
    solver = solvers.Gibbs(model, part, part, CPU)
    rng, prior = (
        np.random.default_rng(0),
        (2 * np.eye(2, dtype="f4"), np.zeros(2, "f4")),
    )
    for side in 40 * [0, 1]:
        noise = rng.standard_normal((n, 2), np.float32)
        solver.solve_rows(side, np.ones(n, np.float32), prior, noise)
    users, items = solver.users.numpy(), solver.items.numpy()
    drawn = users[:, 0] * items[:, 0] + users[:, 1] + items[:, 1]
    # b_u + b_i is one normal variable of variance 1, s; p and q have variance 1/2.
    grid = np.linspace(-4, 4, 161)
    p, q, s = np.meshgrid(grid, grid, grid, indexing="ij", sparse=True)
    error = 6 * (p * q + s) ** 2 - 2 * (p * q + s) * (stars - 3).sum()
    density = np.exp(-(p**2) - q**2 - s**2 / 2 - error / 2)
    mean = (density * (p * q + s)).sum() / density.sum()
    variance = (density * (p * q + s) ** 2).sum() / density.sum() - mean**2
    assert drawn.mean() == pytest.approx(mean, abs=0.02)
    assert drawn.var() == pytest.approx(variance, rel=0.06)


def train(name, tmp_path=None, epochs=6, killed_after=None):
    part = make_ratings()
    solver = make(name, part)
    schedule = Schedule(epochs=epochs)
    evaluated = 0

    def evaluate():
        nonlocal evaluated
        evaluated += 1
        if evaluated == killed_after:
            raise KeyboardInterrupt
        return solver.evaluate()

    run = FakeRun(tmp_path) if tmp_path else None
    options = {"evaluate": evaluate, "verbose": False, "solver": solver}
    history, _ = training.fit(solver.model, part, schedule, CPU, run, **options)
    return solver, history


class FakeRun:
    name, started_at, device_id, parameters = "a run", "2026-01-01", 0, {}

    def __init__(self, folder):
        self.folder = self.chief_folder = folder
        folder.mkdir(exist_ok=True)

    def check_order(self):
        pass

    def recorded_at(self):
        return None

    def continue_clock(self, started_at, wall_s):
        pass

    def wall_s(self):
        return 1.0


@pytest.mark.parametrize("name", ["als", "gibbs"])
def test_seeded_runs_repeat_and_a_killed_run_resumes_to_the_same_result(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(solvers, "SAVE_EVERY", 2)
    solver, history = train(name)
    again, same = train(name)
    assert same == history
    with pytest.raises(KeyboardInterrupt):
        train(name, tmp_path, killed_after=4)
    resumed, after = train(name, tmp_path)
    assert after == history
    for one, other in ((again, solver), (resumed, solver)):
        for mine, theirs in zip(one.model.weights, other.model.weights):
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
    if name == "gibbs":
        np.testing.assert_array_equal(resumed.deviation(), solver.deviation())
    options = {"evaluate": solver.evaluate, "verbose": False, "solver": solver}
    schedule = Schedule(epochs=6)
    once_more, _ = training.fit(solver.model, solver.part, schedule, CPU, **options)
    assert once_more == history


def test_the_kept_model_predicts_the_mean_of_its_samples():
    part = make_ratings()
    solver = make("gibbs", part, samples=4)
    stars = []
    for sweep in range(9):
        solver.sweep(sweep, 9)
        users, items = solver.users.numpy(), solver.items.numpy()
        mine, theirs = users[part.user_idx], items[part.item_idx]
        stars.append(3.25 + (mine[:, :-1] * theirs[:, :-1]).sum(1))
        stars[-1] += mine[:, -1] + theirs[:, -1]
    np.testing.assert_allclose(solver.mean.numpy(), np.mean(stars[1:], 0), rtol=1e-4)
    kept = [stars[k] for k in np.linspace(1, 8, 4).round().astype(int)]
    pairs = np.stack([part.user_idx, part.item_idx], 1)
    found = np.asarray(solver.model(pairs))[:, 0]
    np.testing.assert_allclose(found, np.mean(kept, axis=0), rtol=1e-4)
    variance = np.var(stars[1:], axis=0) + solver.noise.numpy()
    np.testing.assert_allclose(solver.deviation() ** 2, variance, rtol=1e-3)


@pytest.mark.parametrize("name", ["als", "gibbs"])
def test_a_saved_model_recommends_exports_and_moves_like_the_trained_one(
    name, tmp_path
):
    solver, _ = train(name, tmp_path / "run")
    users, items = 100 + np.arange(N_USERS), 500 + np.arange(N_ITEMS)
    trained.keep(FakeRun(tmp_path / "run"), solver.model, items, users)
    loaded = trained.load(tmp_path / "run", "MF")
    everything = np.full(N_ITEMS, 7, np.int32), np.arange(N_ITEMS, dtype=np.int32)
    stars = mf.predict(solver.model, *everything)
    np.testing.assert_array_equal(mf.predict(loaded.model, *everything), stars)
    best = recommend.recommend(loaded, 107, k=3)
    assert best.ids == items[np.argsort(-stars)[:3]].tolist()
    np.testing.assert_allclose(best.scores, np.sort(stars)[::-1][:3], rtol=1e-5)
    module = tf.saved_model.load(str(export.save(loaded, tmp_path / "export")))
    answer = module.recommend(
        tf.constant([107], tf.int64), tf.constant(False), tf.constant(3)
    )
    assert answer["ids"].numpy()[0].tolist() == best.ids
    moved, counts = transfer.carry_over(loaded, items[::-1], users[5:])
    assert counts["items"] == {"kept": N_ITEMS, "new": 0, "dropped": 0}
    same = mf.predict(moved, everything[0] - 5, everything[1][::-1])
    np.testing.assert_allclose(same, stars, rtol=1e-6)
    part = make_ratings()
    before = mf.predict(moved, np.full(3, 2), np.arange(3))
    mf.fold_in(moved, part.take(part.user_idx == 2))
    after = mf.predict(moved, np.full(3, 2), np.arange(3))
    assert np.isfinite(after).all()
    assert (after != before).any()


def test_a_user_folded_in_gets_the_mean_given_the_items_of_every_sample():
    part = make_ratings()
    solver = make("gibbs", part, samples=2, latent_dim=1)
    for sweep in range(4):
        solver.sweep(sweep, 4)
    model, mine = solver.model, part.take(part.user_idx == 4)
    q = np.asarray(model.q).reshape(N_ITEMS, 2, 3) * 2**0.5
    np.testing.assert_allclose(q[:, :, 1], 1, rtol=1e-6)
    mf.fold_in(model, mine)
    p = np.asarray(model.p).reshape(N_USERS, 2, 3)[4] * 2**0.5
    for sample in range(2):
        prior, centre, alpha = (
            np.asarray(value)[sample].astype("f8")
            for value in (model.precision, model.centre, model.alpha)
        )
        z = q[mine.item_idx, sample, :2].astype("f8")
        target = mine.rating - 3.25 - q[mine.item_idx, sample, 2]
        left = prior + alpha * z.T @ z
        right = prior @ centre + alpha * z.T @ target
        np.testing.assert_allclose(p[sample, :2], np.linalg.solve(left, right), 1e-4)
    np.testing.assert_allclose(p[:, 2], 1, rtol=1e-6)


def test_a_name_makes_a_model_and_its_solver():
    part = make_ratings()
    data = Data(part, part)
    model, solver = solvers.make("adam", data, CPU, use_bias=False, latent_dim=2)
    assert (type(model), model.use_bias, solver) == (mf.MF, False, None)
    model, solver = solvers.make("gibbs", data, CPU, samples=3, latent_dim=2)
    assert (type(model), model.samples) == (mf.SampledMF, 3)
    assert solver.model is model
    with pytest.raises(InputError, match="use_bias=False.*gibbs.* draws the biases"):
        solvers.make("gibbs", data, CPU, use_bias=False)
    with pytest.raises(InputError, match='solver="sgd": allowed are "adam", "als"'):
        solvers.make("sgd", data, CPU)


@dataclass
class Data:
    """As much of ``lib.data.ratings.Ratings`` as a solver asks for."""

    train: ratings.Part
    test: ratings.Part
    n_users, n_items, global_mean = N_USERS, N_ITEMS, 3.25


def test_coverage_is_that_of_normal_intervals():
    part = make_ratings()
    solver = make("gibbs", part)
    rng = np.random.default_rng(0)
    solver.test = part.take(np.zeros(20_000, int))
    solver.test.rating[:] = 3 + rng.normal(0, 0.5**0.5, 20_000)
    solver.mean = tf.fill(20_000, 3.0)
    solver.square_mean = tf.fill(20_000, 9.2)  # 0.2 over the samples, 0.3 of a rating
    solver.noise.assign(0.3)
    found = solver.coverage()
    assert found == pytest.approx(
        {"coverage_50": 0.5, "coverage_80": 0.8, "coverage_95": 0.95}, abs=0.01
    )


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"kind": "npu"}, "an NPU has no Cholesky"),
        ({"workers": 2}, "one worker"),
    ],
)
def test_a_device_that_cannot_solve_says_so(change, part):
    model = mf.MF(N_USERS, N_ITEMS, 3.0)
    data = make_ratings()
    with pytest.raises(InputError, match=part):
        solvers.ALS(model, data, data, replace(CPU, **change))


def test_als_without_a_penalty_says_what_it_needs():
    with pytest.raises(InputError, match=r"regularization=0.*0.0001 or more with solv"):
        make("als", regularization=0)


def test_an_extension_belongs_to_gibbs_sampling():
    data = Data(make_ratings(), make_ratings())
    with pytest.raises(InputError, match='extension="sets".*choose.*solver="gibbs"'):
        solvers.make("als", data, CPU, extension="sets")
    with pytest.raises(InputError, match='extension="all": allowed are "none", "sets"'):
        solvers.make("gibbs", data, CPU, extension="all")
    with pytest.raises(InputError, match="the ratings have no times"):
        solvers.make("gibbs", data, CPU, extension="times")


def with_times(part, seed=0):
    rng = np.random.default_rng(seed)
    return replace(part, timestamp=rng.integers(0, 10**6, len(part)))


def test_drawn_slopes_have_the_mean_and_covariance_of_a_regression():
    """The sets' effects given the rows and their prior, against the exact normal."""
    part, rng = make_ratings(), np.random.default_rng(0)
    columns = part.user_idx, part.item_idx
    tables = [tf.Variable(rng.standard_normal((n, 2), np.float32)) for n in (40, 30)]
    sets = solvers.Sets(columns, 0, tables)
    matrix = np.zeros((N_USERS, N_ITEMS))
    matrix[columns] = 1
    matrix /= np.maximum(np.sqrt(matrix.sum(axis=1, keepdims=True)), 1)
    np.testing.assert_allclose(sets.matrix.toarray(), matrix, rtol=1e-6)
    precision, centre = (
        np.array([[2.0, 0.3], [0.3, 1.0]], "f4"),
        np.array([1, -1], "f4"),
    )
    rows, draws = tables[0].numpy(), []
    solvers_prior, solvers.draw_prior = (
        solvers.draw_prior,
        lambda *_: (precision, centre),
    )
    try:
        for _ in range(1000):
            sets.weight.assign(3.0)
            sets.draw(rows, rng)
            draws.append(sets.slopes.numpy())
    finally:
        solvers.draw_prior = solvers_prior
    left = np.linalg.inv(matrix.T @ matrix + 3 * np.eye(N_ITEMS))
    draws = np.array(draws)
    expected = left @ matrix.T @ (rows - centre)
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=0.08)
    covariance = np.cov(draws[:, :4].reshape(len(draws), -1).T)
    expected = np.kron(left[:4, :4], np.linalg.inv(precision))
    np.testing.assert_allclose(covariance, expected, atol=0.07)


def test_drawn_levels_have_the_mean_and_variance_of_their_distribution(monkeypatch):
    """One kind of block at a time, its precision given."""
    monkeypatch.setattr(solvers, "SPANS", ())
    part, rng = with_times(make_ratings()), np.random.default_rng(0)
    times = solvers.Times(part, part)
    residual = rng.standard_normal(len(part)).astype(np.float32)
    block, draws = times.blocks[0, : len(part)], []
    for _ in range(800):
        times.precisions.assign([4.0])
        left = residual - times.add_up()[0]
        times.draw(left + times.add_up()[0], 1.5, rng)
        draws.append(times.levels[0].numpy())
    count = np.bincount(block)
    weight = 4 + 1.5 * count
    expected = 1.5 * np.bincount(block, residual) / weight
    np.testing.assert_allclose(np.mean(draws, axis=0), expected, atol=0.09)
    np.testing.assert_allclose(np.var(draws, axis=0), 1 / weight, rtol=0.3)


def test_blocks_hold_consecutive_ratings_of_one_user_and_never_look_ahead():
    train, test = with_times(make_ratings()), with_times(make_ratings(seed=1), 1)
    blocks = solvers._number_blocks(train, test)
    user = np.concatenate([train.user_idx, test.user_idx])
    time = np.concatenate([train.timestamp, test.timestamp])
    for span, block in zip(solvers.SPANS, blocks):
        assert np.bincount(block[: len(train)]).max() <= span
        for number in np.unique(block):
            here = block == number
            assert len(set(user[here])) == 1
            others = (user == user[here][0]) & ~here
            between = (time > time[here].min()) & (time < time[here].max())
            assert not (others & between).any()
    days = {(u, t // 86_400) for u, t in zip(user, time - time.min())}
    assert len(np.unique(blocks[-1])) == len(days)


def test_gibbs_with_sets_and_times_finds_them(tmp_path, monkeypatch):
    """Ratings that depend on the set and the day; a killed run resumes."""
    monkeypatch.setattr(solvers, "SAVE_EVERY", 2)
    rng, part = np.random.default_rng(0), with_times(make_ratings(900))
    day = (part.timestamp - part.timestamp.min()) // 86_400
    levels = rng.normal(0, 1, (N_USERS, 12))[part.user_idx, day]
    part = replace(part, rating=(3 + levels).astype(np.float32))
    is_test = rng.random(len(part)) < 0.2
    errors = {}
    for extension in ("none", "both"):
        model = mf.SampledMF(N_USERS, N_ITEMS, 3.0, latent_dim=1, samples=2)
        parts = part.take(~is_test), part.take(is_test)
        solver = solvers.Gibbs(model, *parts, CPU, extension=extension)
        for sweep in range(60):
            solver.sweep(sweep, 60)
        errors[extension] = solver.evaluate()["rmse"]
    assert errors["both"] < 0.9 * errors["none"]
