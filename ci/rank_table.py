"""The rank table of NPUs that train together: which card has which rank.

The format is HCCL's, version 1.0, for the Ascend 910: JSON without comments, all values
text. On one server 1, 2, 4 or 8 cards work together; cards 0 to 3 and 4 to 7 each form
a ring, and a group of 2 or 4 cards stays within one.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema

from lib.errors import InputError
from lib.files import read_json

RING = 4  # cards 0-3 and 4-7


def _object(**properties: Mapping) -> dict:
    required = list(properties)
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Mapping) -> dict:
    return {"type": "array", "minItems": 1, "items": items}


_TEXT = {"type": "string", "minLength": 1, "maxLength": 64}
_NUMBER = {"type": "string", "pattern": r"^[0-9]{1,4}\Z"}
_IP = {"type": "string", "format": "ip"}
_DEVICE = _object(device_id=_NUMBER, device_ip=_IP, rank_id=_NUMBER)
SCHEMA = _object(
    status={"const": "completed"},
    version={"const": "1.0"},
    server_count=_NUMBER,
    server_list=_list(_object(server_id=_TEXT, device=_list(_DEVICE))),
)
_FORMATS = jsonschema.FormatChecker(())
_FORMATS.checks("ip", ValueError)(ipaddress.ip_address)
_VALIDATOR = jsonschema.Draft7Validator(SCHEMA, format_checker=_FORMATS)


def check_devices(devices: Sequence[int]) -> None:
    """Checks that cards of one server can train together.

    Raises:
        InputError: not 1, 2, 4 or 8 different cards, or 2 or 4 from both rings.
    """
    rings = {number // RING for number in devices}
    if not (
        len(set(devices)) == len(devices) in (1, 2, 4, 8)
        and rings <= {0, 1}
        and (len(rings) == 1 or len(devices) == 2 * RING)
    ):
        raise InputError(
            f"devices {', '.join(map(str, devices))}: an Ascend 910 server trains on "
            "1, 2, 4 or 8 different cards from 0 to 7, of which 2 or 4 must be in one "
            "ring, 0-3 or 4-7."
        )


def make(
    devices: Sequence[int], addresses: Mapping[int, str], server: str = "127.0.0.1"
) -> dict:
    """Makes the table of one server.

    Args:
        devices: numbers of its cards, in the order of their ranks.
        addresses: card -> IP address of its network port, see ``read_addresses``.
        server: a name of the server; by convention its address.

    Raises:
        InputError: a card has no address, or HCCL would reject the table.
    """
    check_devices(devices)
    missing = [number for number in devices if number not in addresses]
    if missing:
        raise InputError(
            f"device {missing[0]} has no network address: add a line "
            f"address_{missing[0]}=<IP> to the file of addresses, as "
            f'"hccn_tool -i {missing[0]} -ip -g" prints it.'
        )
    rows = [
        {"device_id": str(number), "device_ip": addresses[number], "rank_id": str(rank)}
        for rank, number in enumerate(devices)
    ]
    table = {
        "status": "completed",
        "version": "1.0",
        "server_count": "1",
        "server_list": [{"server_id": server, "device": rows}],
    }
    check(table, "the rank table")
    return table


def read_addresses(path: Path) -> dict[int, str]:
    """Reads ``address_<card>=<IP>`` lines, as in ``/etc/hccn.conf``: card -> IP.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected are the cards' network "
            "addresses, as in /etc/hccn.conf. Or pass a rank table with --rank-table."
        ) from error
    addresses = re.findall(r"^ *address_([0-9]{1,2}) *=(.*)$", text, re.MULTILINE)
    return {int(number): address.strip() for number, address in addresses}


def read(path: Path) -> dict:
    """Reads and checks a rank table.

    Raises:
        InputError: the file cannot be read, is not JSON, or HCCL would reject it.
    """
    try:
        table = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); a rank table is JSON without comments."
        ) from error
    check(table, str(path))
    return table


def check(table: Any, where: str) -> None:
    """Checks a rank table: its structure, then the rules of ranks, devices and rings.

    Raises:
        InputError: HCCL would reject it; the sentence names the place of the fault.
    """
    error = jsonschema.exceptions.best_match(_VALIDATOR.iter_errors(table))
    if error:
        raise InputError(
            f"{where}: {error.json_path.lstrip('$.') or 'the table'}: {error.message} "
            "(HCCL's format 1.0, in which every value is text in quotes)."
        )
    fault = _find_fault(table)
    if fault:
        raise InputError(f"{where}: {fault}.")


def _find_fault(table: dict) -> str:
    """Returns the first broken rule of a table with the right structure, or ``""``."""
    groups = [server["device"] for server in table["server_list"]]
    if table["server_count"] != str(len(groups)):
        return f"server_count must be the length of server_list, {len(groups)}"
    for number, devices in enumerate(groups):
        place = f"server_list[{number}].device"
        try:
            check_devices([int(device["device_id"]) for device in devices])
        except InputError as error:
            return f"{place}: {str(error).rstrip('.')}"
        ranks = sorted(int(device["rank_id"]) for device in devices)
        if ranks != list(range(ranks[0], ranks[0] + len(ranks))):
            return f"{place}: rank_id must be whole numbers in a row, not {ranks}"
        if len(devices) != len(groups[0]):
            return f"{place} must be as many as on the first server"
    all_devices = list_devices(table)
    for key, rows in (("server_id", table["server_list"]), ("device_ip", all_devices)):
        if len({row[key] for row in rows}) < len(rows):
            return f"{key} must differ from row to row"
    ranks = sorted(int(device["rank_id"]) for device in all_devices)
    if ranks != list(range(len(ranks))):
        return f"rank_id must count from 0, not {ranks}"
    return ""


def list_devices(table: dict) -> list[dict]:
    """Returns the devices of all servers of a table."""
    return [device for server in table["server_list"] for device in server["device"]]


def number_folder(host: int, card: int) -> int:
    """Returns the number of the folder of a card's runs; hosts may share the folder."""
    return 2 * RING * host + card


def find_chief(table: dict) -> int:
    """Returns the number of the folder of the card with rank 0."""
    return next(
        number_folder(host, int(device["device_id"]))
        for host, server in enumerate(table["server_list"])
        for device in server["device"]
        if device["rank_id"] == "0"
    )


def find_logical(devices: Sequence[int], nodes: Path = Path("/dev")) -> dict[int, int]:
    """Returns the logical numbers of cards by their physical ones.

    A rank table has physical numbers, ``k`` of ``/dev/davinci<k>``. CANN opens a card
    by its place among those that the container has; one without such nodes has all.

    Raises:
        InputError: the container lacks a card, or its cards are renumbered.
    """
    if "ASCEND_RT_VISIBLE_DEVICES" in os.environ:
        raise InputError(
            "ASCEND_RT_VISIBLE_DEVICES is set: it renumbers the cards, and a rank "
            "table has their physical numbers; unset it and choose cards by --devices."
        )
    there = sorted(int(path.name[7:]) for path in nodes.glob("davinci[0-9]*"))
    if not there:
        return {number: number for number in devices}
    absent = [number for number in devices if number not in there]
    if absent:
        raise InputError(
            f"device {absent[0]} is not here: {nodes} has the cards "
            f"{', '.join(map(str, there))}; name some of these by --devices."
        )
    return {number: there.index(number) for number in devices}
