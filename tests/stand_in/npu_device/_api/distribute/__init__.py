from npu_device.distribute.hccl import all_reduce as all_reduce
from npu_device.distribute.hccl import broadcast as broadcast
from npu_device.distribute.hccl import (
    npu_distributed_keras_optimizer_wrapper as npu_distributed_keras_optimizer_wrapper,
)
