"""``open()``, its handle, and the loop size."""

import os
from contextlib import contextmanager

from tensorflow.python.eager import context
from tensorflow.python.framework.device import DeviceSpec

from npu_device import patches
from npu_device.configs.native_checks import complaint
from npu_device.contract import broken, calls

HOST, CARD = (f"/job:localhost/replica:0/task:0/device:CPU:{n}" for n in (0, 1))
handle = None
engine_runs = False  # from the native part of open() on


class CardContext(context.Context):
    """An eager context with a default device, which every thread starts on."""

    default = ""

    @property
    def _thread_local_data(self):
        data = vars(self)["of_thread"]
        if self.default and not data.device_name:
            data.device_spec = DeviceSpec.from_string(self.default)
            data.device_name = self.default
        return data

    @_thread_local_data.setter
    def _thread_local_data(self, data):
        vars(self)["of_thread"] = data


def open(device_id=None):
    """Opens a card; the same number again gives the same handle."""
    global handle, engine_runs
    if device_id is None:
        device_id = int(os.environ.get("ASCEND_DEVICE_ID", "0"))
    if not isinstance(context.context(), CardContext):
        _replace_context()
    if handle is not None:
        if handle.device_id != device_id:  # also "0" after 0
            raise RuntimeError(f"Failed create npu instance on device {device_id}")
        calls.append(("open again", device_id))
        return handle
    calls.append(("open", device_id))
    workers = _workers()
    failure = os.environ.get("STAND_IN_CARD") or complaint()
    if failure:
        raise RuntimeError(f"Failed open npu device {device_id} : {failure}")
    engine_runs = True
    rank = 0
    if workers > 1:
        from hccl.manage.api import get_rank_id

        rank = get_rank_id()
    handle = NpuDeviceHandle(device_id, workers, rank)
    calls.append(("opened", device_id))
    return handle


def set_npu_loop_size(loop_size):
    """Steps of the next call of a loop; a number below 1 changes nothing."""
    global loop_size_now
    if type(loop_size) is not int:
        raise TypeError(f"loop_size must be int, got {type(loop_size)}")
    loop_size_now = loop_size if loop_size > 0 else loop_size_now
    calls.append(("set_npu_loop_size", loop_size))


class NpuDeviceHandle:
    def __init__(self, device_id, workers_num, worker_id):
        self.device_id = device_id
        self.workers_num, self.worker_id = workers_num, worker_id

    def name(self):
        return f"/job:localhost/replica:0/task:0/device:NPU:{self.device_id}"

    def is_cluster_worker(self):
        return self.workers_num > 1 and 0 <= self.worker_id < self.workers_num

    @contextmanager
    def scope(self):
        with context.device(CARD):
            yield

    def as_default(self):
        calls.append(("as_default",))
        patches.install()
        context.context().default = CARD
        return self


def _replace_context():
    """Restarts TensorFlow; earlier variables and tensors are lost."""
    if context.context()._initialized:
        broken.append("tensors were made before open: they are lost")
    new = CardContext()
    host_and_card = [context.LogicalDeviceConfiguration() for _ in range(2)]
    new.set_logical_device_configuration(
        new.list_physical_devices("CPU")[0], host_and_card
    )
    new.ensure_initialized()
    context._set_context(new)


def _workers():
    """How many processes train together, from the environment; wrong pairs raise."""
    env = os.environ
    if "RANK_SIZE" in env and "CM_WORKER_SIZE" in env:
        raise ValueError("RANK_SIZE and CM_WORKER_SIZE exclude each other")
    workers = int(env.get("RANK_SIZE", env.get("CM_WORKER_SIZE", "1")))
    if workers > 1:
        ways = ("RANK_TABLE_FILE" in env) + ("CM_CHIEF_IP" in env)
        if ways != 1:
            said = "both" if ways else "none"
            raise RuntimeError(f"of RANK_TABLE_FILE and CM_CHIEF_IP, {said} is set")
        if "RANK_TABLE_FILE" in env and "RANK_ID" not in env:
            raise RuntimeError("RANK_TABLE_FILE needs RANK_ID")
    return workers


# Read here, once, and never again from the environment.
loop_size_now = max(int(os.environ.get("NPU_LOOP_SIZE", "1")), 1)
calls.append(("import", os.environ.get("NPU_LOOP_SIZE", "1")))
