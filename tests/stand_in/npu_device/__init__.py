"""A stand-in for ``npu_device``: no card, but the package's contract, strictly kept.

The layout is that of the package: sub-folders have no ``__init__.py``, and a public
name is an attribute that this import sets up from ``_api``. The card is a second
(logical) CPU. Mistakes that fail later or never with the package (an option set after
``open``, a graph that one rank runs alone) fail here: they raise ``ContractBroken`` or
are listed in ``broken``. ``calls`` lists the calls in their order.

The environment sets up the stand-in:

- ``STAND_IN_RELEASE``: ``2022`` has older options, ``9`` those of CANN 9 too;
- ``STAND_IN_IMPORT=text``: the import fails, as it does without CANN;
- ``STAND_IN_CARD=text``: the card cannot be opened;
- ``STAND_IN_CALLS=file``: calls are written there too, one JSON list a line;
- ``STAND_IN_FABRIC=folder``: where the ranks of one job meet;
- ``STAND_IN_RANK=number``: what ``hccl`` answers, where it is not ``$RANK_ID``;
- ``STAND_IN_TIMEOUT=seconds``: how long a rank waits for the others.
"""

import os

import tensorflow as tf

if "STAND_IN_IMPORT" in os.environ:
    raise ImportError(os.environ["STAND_IN_IMPORT"])
if not tf.__version__.startswith("2.6."):  # its native libraries would not load
    raise ImportError(f"built for TensorFlow 2.6, found {tf.__version__}")

from npu_device._api import distribute as distribute
from npu_device._api import train as train
from npu_device.configs.npu_config import global_options as global_options
from npu_device.contract import ContractBroken as ContractBroken
from npu_device.contract import broken as broken
from npu_device.contract import calls as calls
from npu_device.npu_device import open as open
from npu_device.npu_device import set_npu_loop_size as set_npu_loop_size
from npu_device.patches import npu_compat_function as npu_compat_function
