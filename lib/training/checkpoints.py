"""Where a training stands: saved whole or not at all, and read back with care.

The folder ``ckpt/`` of a run holds one checkpoint of TensorFlow's, ``ckpt-<epoch>``,
and beside it ``ckpt-<epoch>.json`` with what belongs to the record: the *progress*.
They are saved in this order: the JSON; the tensors; the file ``checkpoint``, which
names them and is replaced in one step; then what is older goes. So whenever a process
dies, ``checkpoint`` names tensors that are whole, with their JSON beside them.
"""

import contextlib
import json
import re
import shutil
from pathlib import Path

from lib import files
from lib.errors import InputError
from lib.hardware import workers
from lib.hardware.tensorflow import tf

# What the JSON holds.
KEYS = {
    "run": str,  # whose it is
    "started_at": str,  # when its first attempt began
    "wall_s": (int, float),  # spent on it so far, over all attempts
    "history": list,  # one dict an epoch
    "epoch_s": list,  # seconds of every epoch
    "first_step_s": (int, float),
    "steady": list,  # examples, steps and seconds without the first calls
    "traced_graphs": int,
}


def resume(run, checkpoint, epochs, agree, wait):
    """Loads the last checkpoint of a run, if the run was cut off after one.

    A run whose record is written is over: it starts anew, and its checkpoint goes.

    Args:
        run: a ``lib.records.run.Run``; its clock goes on where the checkpoint left it.
        checkpoint: a ``tf.train.Checkpoint`` of the model as it stands.
        epochs: how many the run will have.
        agree: called with the number of epochs done; returns where all workers have
            done as many. Loading variables of several workers is a thing of all of
            them, so it comes after that.
        wait: called when everything is read; returns when all workers are there.

    Returns:
        ``(manager, progress)``, for ``save``.

    Raises:
        InputError: what is in the folder is damaged, or belongs to another run.
    """
    folder = run.chief_folder / "ckpt"
    is_chief = workers.current().rank == 0
    saved = latest(folder)
    progress = _progress_of(saved, run) if saved else None
    if progress and len(progress["history"]) > epochs:
        raise InputError(
            f"{saved}: the run has {len(progress['history'])} epochs already, and "
            f"epochs={epochs}; give that many or more, or another output_dir."
        )
    ended = progress and run.recorded_at() == progress["started_at"]
    ended = ended and len(progress["history"]) == epochs
    agree(len(progress["history"]) if progress and not ended else 0)
    if ended:
        if progress["started_at"] == run.started_at:
            run.start_clock()
    elif progress:
        _restore(checkpoint, saved)
        run.continue_clock(progress["started_at"], progress["wall_s"])
    if is_chief and not ended:
        _tidy(folder)
    wait()
    if is_chief and ended:
        _remove(folder)
    if ended or not progress:
        progress = {
            "run": run.name,
            "history": [],
            "epoch_s": [],
            "first_step_s": None,
            "steady": [0, 0, 0.0],
            "traced_graphs": 0,
        }
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1), progress


def save(manager, progress, run):
    """Saves the state after an epoch; the last one goes when this one is whole.

    Raises:
        InputError: it cannot be written; the last one is there still.
    """
    folder, number = Path(manager.directory), len(progress["history"])
    clock = {"started_at": run.started_at, "wall_s": run.wall_s()}
    try:
        folder.mkdir(exist_ok=True)
        state = folder / f"ckpt-{number}.json"  # there before the tensors are
        files.write_text(state, json.dumps({**progress, **clock}))
        manager.save(checkpoint_number=number)
        _tidy(folder)
    except (OSError, tf.errors.OpError) as error:
        with contextlib.suppress(OSError, InputError):
            _tidy(folder)
        reason = getattr(error, "strerror", None) or str(error.message)
        raise files.not_written(folder, reason.partition("\n")[0]) from None


def latest(folder):
    """The checkpoint that a folder holds, as TensorFlow names it; None if none.

    Raises:
        InputError: there is one, but it is not whole, or lies elsewhere: TensorFlow
            would read, and in time delete, whatever the file ``checkpoint`` names.
    """
    if not (folder / "checkpoint").exists():
        return None
    try:
        state = tf.train.get_checkpoint_state(str(folder))
        named = [state.model_checkpoint_path, *state.all_model_checkpoint_paths]
        saved = tf.train.latest_checkpoint(str(folder))
    except (AttributeError, ValueError, tf.errors.OpError):  # no such file, no UTF-8
        saved = None
    if saved is None or not all(_is_inside(folder, path) for path in named):
        raise _damaged(folder, "it does not hold the checkpoint that it names")
    return saved


def _is_inside(folder, path):
    path = Path(path)
    return path.parent == folder and bool(re.fullmatch(r"ckpt-[1-9][0-9]*", path.name))


def _progress_of(saved, run):
    """What was saved beside a checkpoint, once it is sure that it belongs there."""
    path, number = Path(saved + ".json"), int(saved.rpartition("-")[2])
    try:
        progress = files.read_json(path)
    except (OSError, ValueError):
        progress = None
    if not _is_progress(progress, number):
        raise _damaged(path.parent, f"{path.name} is not what belongs to it")
    if progress["run"] != run.name:
        raise InputError(
            f"{path.parent} holds the checkpoint of the run {progress['run']}: give "
            "its folder that name again, or remove it, or give another output_dir."
        )
    return progress


def _is_progress(progress, number):
    if not isinstance(progress, dict) or set(progress) != set(KEYS):
        return False
    if not all(isinstance(progress[key], kind) for key, kind in KEYS.items()):
        return False
    history, lists = progress["history"], (progress["epoch_s"], progress["steady"])
    numbered = [row.get("epoch") for row in history if isinstance(row, dict)]
    numbers = [value for some in lists for value in some]
    numbers += [v for row in history if isinstance(row, dict) for v in row.values()]
    return (
        numbered == list(range(1, number + 1))
        and len(history) == len(progress["epoch_s"]) == number
        and len(progress["steady"]) == 3
        and all("loss" in row for row in history)
        and all(type(value) in (int, float) for value in numbers)
    )


def _restore(checkpoint, saved):
    try:
        checkpoint.restore(saved).assert_existing_objects_matched()
    except Exception:  # TensorFlow has a dozen ways to say it
        raise _damaged(Path(saved).parent, "it does not fit the model") from None


def _damaged(folder, what):
    return InputError(
        f"{folder} is damaged ({what}): copy it again, or remove it to train anew."
    )


def _tidy(folder):
    """Removes what a process left behind that died, or failed, while it saved."""
    shutil.rmtree(_removed(folder), ignore_errors=True)
    saved = latest(folder)
    kept = saved and Path(saved).name + "."
    for path in [*folder.glob("ckpt-*"), *folder.glob("checkpoint.tmp*")]:
        if kept and path.name.startswith(kept):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _remove(folder):
    """Removes a folder; whoever dies half way leaves it under another name."""
    shutil.rmtree(_removed(folder), ignore_errors=True)
    folder.rename(_removed(folder))
    shutil.rmtree(_removed(folder))


def _removed(folder):
    return folder.with_name(f"{folder.name}.removed")
