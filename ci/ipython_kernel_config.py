"""Keeps two notes of kernels out of the terminal; setup.sh copies it into environments.

A kernel that papermill has started says that it talks over TCP, which stays within this
machine, and that it was interrupted when papermill ends it. Neither is an alarm.
"""

import logging

NOTES = ("running over TCP without encryption", "KeyboardInterrupt caught in kernel")


def is_alarm(record):
    """Whether a message of the kernel's log is none of the notes."""
    return not any(note in record.getMessage() for note in NOTES)


logging.getLogger("IPKernelApp").addFilter(is_alarm)
