"""A stand-in for ``npu_device``: no card, but the package's contract, strictly kept.

It computes on the CPU. What the real package would let pass to fail later, or never
(an option set after ``open``, tensors made before it), is a failure here: it raises
``ContractBroken`` or is listed in ``broken``. ``calls`` lists every call in its order.

Settings of the stand-in, from the environment:

- ``STAND_IN_RELEASE=2022``: a release without the newer names of precision modes;
- ``STAND_IN_IMPORT=text``: the import fails, as it does without CANN;
- ``STAND_IN_CARD=text``: the card cannot be opened;
- ``STAND_IN_CALLS=file``: calls are written there too, one JSON list a line.
"""

import os

from npu_device import distribute, train
from npu_device.contract import ContractBroken, broken, calls
from npu_device.options import global_options
from npu_device.session import open, set_npu_loop_size

__all__ = [
    "ContractBroken",
    "broken",
    "calls",
    "distribute",
    "global_options",
    "open",
    "set_npu_loop_size",
    "train",
]

if "STAND_IN_IMPORT" in os.environ:
    raise ImportError(os.environ["STAND_IN_IMPORT"])
# The loop size is read here, once, and never again from the environment.
calls.append(("import", os.environ.get("NPU_LOOP_SIZE", "1")))
