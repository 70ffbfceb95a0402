"""The summary that the published ModelZoo scripts leave, written for our runs too.

A run of one of the params files in ``CASES`` leaves, beside the folders of the runs::

    output/<device id>/<CaseName>.log              one "Key = value" a line
    output/<device id>/train_<CaseName>_loss.txt   one loss a line

``CaseName`` is ``<Network>_bs<BatchSize>_<RankSize>p_acc`` for a full run and
``..._perf`` for a performance run. As the scripts' own, the two files are those of the
newest run: with several seeds the last one. MF's static and dynamic runs share a name
and replace each other's files. A run that is skipped because it has a record changes
neither file. With several workers the first one writes them. A value that is not
measured is ``NA``.

================  =============================  =======================================
key               published                      here
================  =============================  =======================================
Network           name of the port's folder      the same
RankSize          ``$RANK_SIZE``                 number of workers
BatchSize         ``--batch_size``               ``batch_size``, of all workers together
DeviceType        ``uname -m``                   the same
ActualFPS         STAMP: 50 steps of 128 over    ``examples_per_second`` of the record:
                  the whole seconds of the       examples over seconds of all calls
                  last epoch, validation         but the first, which compiles (of MF
                  included. MF: ``imgs/s``,      the first epoch) unless it is the only
                  with 797,696 ratings built     one, unrounded, evaluation left out
                  in, first epoch left out
TrainingTime      STAMP: whole seconds of the    STAMP: seconds of the last epoch,
                  last epoch, validation         evaluation left out. MF: the same
                  included. MF: BatchSize /      formula, with our ActualFPS
                  ActualFPS, seconds a step
TrainAccuracy     STAMP: ActualLoss. MF: RMSE    STAMP: ActualLoss. MF: ``rmse`` of the
                  on the test part, after the    record, on the same part, with four
                  last epoch, two decimals       decimals
ActualLoss        last line of the loss file     the same
E2ETrainingTime   whole seconds of the training  whole seconds of the notebook, from the
                  process                        start of its kernel to its end; ``NA``
                                                 if it resumed from a checkpoint
loss file         the loss that Keras prints:    the loss of each epoch, its mean over
                  STAMP's after each epoch, MF's the steps, penalty included
                  after each step, where it is
                  the mean of the epoch so far
================  =============================  =======================================

Between "published" and "here" only the way of computing the figures differs: the losses
are those of the same model. The graph behind ours is much cheaper, see docs/ascend.md.
"""

from __future__ import annotations

import json
import platform
from datetime import datetime
from pathlib import Path

from lib import files

_PORT = "_for_TensorFlow2.X"
NETWORKS = {"stamp": "STAMP_ID2628" + _PORT, "mf": "MF_ID2624" + _PORT}
CASES = {  # params file -> end of CaseName
    "stamp_full_1p": "acc",
    "stamp_performance_1p": "perf",
    "mf_full_static_1p": "acc",
    "mf_full_dynamic_1p": "acc",
    "mf_performance_static_1p": "perf",
    "mf_performance_dynamic_1p": "perf",
}


def write(name: str, path: Path | None, seconds: float) -> Path | None:
    """Writes the summary of a run that has just ended, and prints its rate.

    Args:
        name: of the run: its params file, then ``-`` and the values of lists.
        path: of its ``result.json``; None without one.
        seconds: duration of its notebook.

    Returns:
        The path of ``<CaseName>.log``; None if the params file is not a published one.
    """
    ending = CASES.get(name.partition("-")[0])
    if not ending or not path:
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["variant"] != "modelzoo" or record["parameters"]["fixes"]:  # by --set
        return None
    values, losses = summarize(record, ending, seconds)
    folder, case = path.resolve().parents[1], values["CaseName"]
    lines = "".join(f"{key} = {value}\n" for key, value in values.items())
    files.write_text(folder / f"train_{case}_loss.txt", "".join(losses))
    files.write_text(folder / f"{case}.log", lines)
    print(f"Final Performance images/sec : {values['ActualFPS']}", flush=True)
    return folder / f"{case}.log"


def summarize(record: dict, ending: str, seconds: float) -> tuple[dict, list[str]]:
    """Returns the values of the module's table and the lines of the loss file."""
    stamp, timing = record["model"] == "stamp", record["timing"]
    size, batch_size = record["device"]["workers"], record["parameters"]["batch_size"]
    network, rate = NETWORKS[record["model"]], timing["examples_per_second"]
    decimals = 4 if stamp else 6
    losses = [f"{row['loss']:.{decimals}f}" for row in record["history"]]
    began, ended = (
        datetime.fromisoformat(timing[key]) for key in ("started_at", "finished_at")
    )
    whole = (ended - began).total_seconds() <= seconds  # no earlier attempt began it
    training_s = f"{timing['epoch_s'][-1]:.3f}" if stamp else f"{batch_size / rate:.6f}"
    values = {
        "Network": network,
        "RankSize": size,
        "BatchSize": batch_size,
        "DeviceType": platform.machine() or "NA",
        "CaseName": f"{network}_bs{batch_size}_{size}p_{ending}",
        "ActualFPS": f"{rate:.2f}",
        "TrainingTime": training_s,
        "TrainAccuracy": losses[-1] if stamp else f"{record['metrics']['rmse']:.4f}",
        "ActualLoss": losses[-1],
        "E2ETrainingTime": round(seconds) if whole else "NA",
    }
    return values, [f"{loss}\n" for loss in losses]
