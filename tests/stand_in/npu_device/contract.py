"""What was called, and which rules were broken."""

calls = []  # ("open", 0), ("option", "precision_mode", "force_fp16"), ... in order
broken = []  # sentences


class ContractBroken(AssertionError):
    """A rule was broken that the real package does not check."""


def fail(sentence):
    """Records a broken rule and raises it."""
    broken.append(sentence)
    raise ContractBroken(sentence)
