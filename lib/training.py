"""Train a model: progress, checkpoints that resume, throughput."""

import json
import math
import shutil
import statistics
import time
from pathlib import Path

from lib import collectives, device, pipeline, results, workers
from lib.errors import InputError
from lib.quiet import tf

LOG_EVERY = 100  # steps between two lines of the log
PATIENCE_S = 1800  # for the first worker's evaluation


def set_seed(seed):
    """Seeds TensorFlow and, where it can, makes its operations deterministic."""
    tf.random.set_seed(seed)
    if hasattr(tf.config.experimental, "enable_op_determinism"):  # TensorFlow 2.9
        tf.config.experimental.enable_op_determinism()


def milliseconds(function, repeats=5):
    """Median time of a call that returns tensors; its first call is not counted."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        tf.nest.map_structure(lambda value: value.numpy(), function())
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def fit(
    model,
    take,
    n_examples,
    run,
    batch_size,
    epochs,
    seed=0,
    steps_per_epoch=0,
    static=True,
    evaluate=None,
    reshuffle=True,
):
    """Trains a compiled model with ``model.fit``; resumes a run that was cut off.

    After every epoch: evaluation, a checkpoint in ``ckpt/`` (TensorFlow's format), a
    line on the screen. A run that was cut off goes on after its last whole epoch and
    ends as an unbroken one would have.

    Args:
        model: a compiled Keras model.
        take, n_examples: the training examples, see ``pipeline.batches``.
        run: ``lib.results.Run``; its folder takes ``ckpt/`` and the log.
        batch_size, epochs, seed, steps_per_epoch, static, reshuffle: see ``pipeline``;
            of several workers ``batch_size`` is that of all together.
        evaluate: ``evaluate() -> {metric: value}``, called after every epoch.

    With ``compile(steps_per_execution=N)`` Keras hears of every N-th step only, and an
    epoch is cut to a multiple of N steps; below, such a group counts as one step.

    Returns:
        ``(history, timing)`` as ``result.json`` holds them: one dict an epoch; and the
        time of the first step (which compiles), training seconds, examples per second
        without the first step (if there were others), seconds an epoch (evaluation not
        counted), and how many times the training step was traced to a graph.

    Raises:
        InputError: too few examples for a batch, or the loss is not a number.
    """
    team = workers.current()
    own_loop = team.engine == "tensorflow"
    group = 1 if own_loop else steps_per_execution(model)
    device.set_loop_size(group)
    _make_variables(model, take)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    assert checkpoint.save_counter is not None  # made now, by all workers together
    folder = run.chief_folder / "ckpt"
    progress = _saved_progress(folder)
    ended = len(progress["history"]) == epochs
    ended = ended and (run.chief_folder / "result.json").exists()
    if ended:  # that run is over: this is a new one
        progress = _saved_progress(None)
    elif progress["history"]:
        latest = tf.train.latest_checkpoint(str(folder))
        checkpoint.restore(latest).assert_existing_objects_matched()
    done = len(progress["history"])
    if team.rank == 0 and not ended:  # what a crash while saving left behind
        for path in folder.glob("ckpt-*.json"):
            if path.name != f"ckpt-{done}.json":
                path.unlink()
    collectives.synchronize(model.trainable_variables)  # all have read
    if ended and team.rank == 0:
        shutil.rmtree(folder)
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)
    if done:
        print(f"resumed after epoch {done} of {epochs}")
    if done < epochs:
        steps = pipeline.count_steps(n_examples, batch_size, steps_per_epoch, static)
        if steps < group:
            raise InputError(
                f"steps_per_execution={group}: an epoch has {steps} steps; give that "
                "or less."
            )
        steps -= steps % group
        dataset = pipeline.batches(
            take, n_examples, batch_size, range(done, epochs), seed, steps, static,
            reshuffle,
        )  # fmt: skip
        log = run.folder / f"train_{run.device_id}.log"
        with open(log, "a" if done else "w", encoding="utf-8") as log_file:
            bookkeeper = _Bookkeeper(
                progress, manager, evaluate, log_file, epochs, batch_size, group
            )
            if own_loop:
                rest = range(done, epochs)
                traced = collectives.fit(model, dataset, rest, steps, bookkeeper)
            else:
                counted = _count_traces(model)
                model.fit(
                    dataset,
                    initial_epoch=done,
                    epochs=epochs,
                    steps_per_epoch=steps,
                    callbacks=[bookkeeper],
                    shuffle=False,  # the dataset is
                    verbose=0,
                )
                traced = len(counted)
            progress["traced_graphs"] += traced
    examples, seconds = progress["steady"]
    if not examples:  # the first step was the only one
        examples = batch_size * group
        seconds = progress["first_step_s"]
    timing = {
        "first_step_s": progress["first_step_s"],
        "train_s": round(sum(progress["epoch_s"]), 3),
        "examples_per_second": round(examples / seconds, 1),
        "epoch_s": progress["epoch_s"],
        "traced_graphs": progress["traced_graphs"],
    }
    if team.size > 1:
        per_worker = timing["examples_per_second"] / team.size
        timing["examples_per_second_per_worker"] = round(per_worker, 1)
    return progress["history"], timing


def _saved_progress(folder):
    """What the last checkpoint in a folder says of the run; a blank sheet if none."""
    latest = folder and tf.train.latest_checkpoint(str(folder))
    if latest and Path(latest + ".json").exists():
        return json.loads(Path(latest + ".json").read_text(encoding="utf-8"))
    return {
        "history": [],
        "epoch_s": [],
        "first_step_s": None,
        "steady": [0, 0.0],
        "traced_graphs": 0,
    }


def steps_per_execution(model):
    """How many steps a compiled Keras model takes in one call."""
    steps = getattr(model, "steps_per_execution", None)  # Keras 3
    return int(model._steps_per_execution if steps is None else steps)


def _count_traces(model):
    """A list that gets an entry whenever the training step is traced."""
    traced, train_step = [], type(model).train_step

    def counted(data):
        traced.append(1)
        return train_step(model, data)

    model.train_step = counted
    return traced


def _make_variables(model, take):
    """Runs one example through, so that a checkpoint finds variables to fill."""
    inputs, _ = take(tf.constant([0]))
    model(inputs)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if hasattr(optimizer, "build"):  # Keras 3; Keras 2.6 fills its slots later
        model.optimizer.build(model.trainable_variables)


class _Bookkeeper(tf.keras.callbacks.Callback):
    """Measures, logs, evaluates and saves; one object, so that the order is plain."""

    def __init__(
        self, progress, manager, evaluate, log_file, epochs, batch_size, group
    ):
        super().__init__()
        self.progress, self.manager, self.evaluate = progress, manager, evaluate
        self.log_file, self.epochs = log_file, epochs
        self.batch_size, self.group = batch_size, group
        self.measuring = False  # not before the first step, which compiles, is over

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_started = self.steady_started = self.logged_at = time.time()
        self.calls = self.logged_step = 0

    def on_train_batch_end(self, batch, logs=None):
        if not self.measuring:
            self.measuring = True
            now = self.steady_started = self.logged_at = time.time()
            self.progress["first_step_s"] = round(now - self.epoch_started, 3)
            return
        self.calls += 1
        if batch + 1 >= self.logged_step + LOG_EVERY:
            self._log(batch + 1, logs["loss"])

    def _log(self, step, loss):
        now = time.time()
        steps = step - self.logged_step
        rate = steps * self.batch_size / (now - self.logged_at)
        self.logged_at, self.logged_step = now, step
        line = f"epoch {self.epoch} step {step} loss {loss:.6f} {rate:.0f} examples/s"
        print(line, file=self.log_file, flush=True)

    @property
    def epoch(self):
        return len(self.progress["history"]) + 1

    def on_epoch_end(self, epoch, logs=None):
        now = time.time()
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"the loss is {logs['loss']} in epoch {self.epoch}: lower "
                'learning_rate, or use precision_mode="must_keep_origin_dtype".'
            )
        self.progress["steady"][0] += self.calls * self.group * self.batch_size
        self.progress["steady"][1] += now - self.steady_started
        seconds = round(now - self.epoch_started, 3)
        row = {"epoch": self.epoch, "loss": float(logs["loss"])}
        if workers.current().rank:
            row = self._row_of_the_first_worker()
        elif self.evaluate:
            row.update(self.evaluate())
        self.progress["history"].append(row)
        self.progress["epoch_s"].append(seconds)
        shown = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if k != "epoch")
        line = f"epoch {row['epoch']}/{self.epochs}  {shown}  {seconds:.1f} s"
        print(line, flush=True)
        print(line, file=self.log_file, flush=True)
        if workers.current().rank == 0:
            self._save(row["epoch"])

    def _row_of_the_first_worker(self):
        """What it measured: it alone evaluates, and writes that down when it saves."""
        path = Path(self.manager.directory) / f"ckpt-{self.epoch}.json"
        until = time.time() + PATIENCE_S
        while not path.exists():
            if time.time() > until:
                raise InputError(
                    f"{path} has not come up: workers on several hosts need an "
                    "output_dir that all of them share."
                )
            time.sleep(0.1)
        return json.loads(path.read_text(encoding="utf-8"))["history"][-1]

    def _save(self, number):
        """Saves the state; what belongs to a checkpoint is written before it."""
        folder = Path(self.manager.directory)
        folder.mkdir(exist_ok=True)
        state = folder / f"ckpt-{number}.json"
        results.write_text(state, json.dumps(self.progress))
        self.manager.save(checkpoint_number=number)
        for path in folder.glob("ckpt-*.json"):
            if path != state:
                path.unlink()
