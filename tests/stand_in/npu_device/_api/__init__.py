"""What becomes public as attributes of ``npu_device``."""
