"""The rank table of NPUs that train together: which card has which rank.

The format is HCCL's, version 1.0, for the Ascend 910: JSON without comments, all values
text. On one server 1, 2, 4 or 8 cards work together; cards 0 to 3 and 4 to 7 are rings
of their own, and 2 or 4 cards stay in one.
"""

import ipaddress
from pathlib import Path

from lib.errors import InputError
from lib.files import read_json

RING = 4  # cards 0-3 and 4-7
LONGEST_NAME = 64  # of a server
TABLE_KEYS = ("status", "version", "server_count", "server_list")
DEVICE_KEYS = ("device_id", "device_ip", "rank_id")


def check_devices(devices):
    """Refuses cards of one server that cannot train together.

    Args:
        devices: their numbers.

    Raises:
        InputError: not 1, 2, 4 or 8 of them, or 2 or 4 from both rings.
    """
    shown = ", ".join(map(str, devices))
    if len(set(devices)) != len(devices) or not set(devices) <= set(range(2 * RING)):
        raise InputError(f"devices {shown}: give different numbers from 0 to 7.")
    if len(devices) not in (1, 2, 4, 8):
        raise InputError(
            f"devices {shown}: {len(devices)} of them; an Ascend 910 server trains on "
            "1, 2, 4 or 8."
        )
    if len(devices) <= RING and len({number // RING for number in devices}) > 1:
        raise InputError(
            f"devices {shown}: 2 or 4 of them stay in one ring, 0-3 or 4-7."
        )


def make(devices, addresses, server="127.0.0.1"):
    """The table of one server.

    Args:
        devices: numbers of its cards, in the order of their ranks.
        addresses: card -> IP address of its network port, see ``addresses_of``.
        server: a name of the server, its address by custom.
    """
    check_devices(devices)
    missing = [number for number in devices if number not in addresses]
    if missing:
        raise InputError(
            f"device {missing[0]} has no network address: add a line "
            f"address_{missing[0]}=<IP> to the file of addresses, as "
            f'"hccn_tool -i {missing[0]} -ip -g" shows it.'
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


def addresses_of(path):
    """Reads ``address_<card>=<IP>`` lines, as in ``/etc/hccn.conf``: card -> IP."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(
            f"{path}: cannot be read ({reason}); it names the cards' network "
            "addresses, as /etc/hccn.conf does; or give a rank table with --rank-table."
        ) from None
    found = {}
    for line in lines:
        key, _, value = line.partition("=")
        number = key.strip()[len("address_") :]
        if key.strip().startswith("address_") and number.isdecimal():
            found[int(number)] = value.strip()
    return found


def read(path):
    """Reads and checks a rank table.

    Raises:
        InputError: no such file, no JSON, or not as HCCL wants it.
    """
    try:
        table = read_json(Path(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise InputError(
            f"{path}: no JSON ({error}); a rank table has no comments."
        ) from None
    check(table, str(path))
    return table


def check(table, where):
    """Refuses what HCCL would refuse, with the place of the fault."""

    def fail(place, what):
        raise InputError(f"{where}: {place} {what}.")

    def need(value, keys, place):
        if not isinstance(value, dict) or not set(keys) <= set(value):
            fail(place, f"needs the keys {', '.join(keys)}")

    need(table, TABLE_KEYS, "the table")
    for key, value in (("status", "completed"), ("version", "1.0")):
        if table[key] != value:
            fail(f'"{key}"', f'is {table[key]!r}; it must be "{value}"')
    servers = table["server_list"]
    if not isinstance(servers, list) or table["server_count"] != str(len(servers)):
        fail('"server_count"', "must be the length of server_list, as text")
    ranks, ips, names = [], [], []
    for number, server in enumerate(servers):
        place = f"server_list[{number}]"
        need(server, ("server_id", "device"), place)
        name, devices = server["server_id"], server["device"]
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
            fail(
                f"{place}.server_id", f"must be text of 1 to {LONGEST_NAME} characters"
            )
        if not isinstance(devices, list) or not devices:
            fail(f"{place}.device", "must be a list of devices")
        for k, device in enumerate(devices):
            here = f"{place}.device[{k}]"
            need(device, DEVICE_KEYS, here)
            if not all(isinstance(device[key], str) for key in DEVICE_KEYS):
                fail(here, "has a value that is not text: write numbers in quotes")
            for key in ("device_id", "rank_id"):
                if not device[key].isdecimal():
                    fail(f"{here}.{key}", f"is {device[key]!r}, not a whole number")
            try:
                ipaddress.ip_address(device["device_ip"])
            except ValueError:
                fail(f"{here}.device_ip", f"is {device['device_ip']!r}, no IP address")
        try:
            check_devices([int(device["device_id"]) for device in devices])
        except InputError as error:
            fail(f"{place}:", str(error).rstrip("."))
        own = sorted(int(device["rank_id"]) for device in devices)
        if own != list(range(own[0], own[0] + len(own))):
            fail(f"{place}: rank_id", f"must be whole numbers in a row, not {own}")
        if len(devices) != len(servers[0]["device"]):
            fail(f"{place}.device", "must be as many as on the first server")
        names.append(name)
        ranks += own
        ips += [device["device_ip"] for device in devices]
    if not ranks:
        fail('"server_list"', "is empty")
    if len(set(names)) < len(names):
        fail("server_id", "must differ from server to server")
    if len(set(ips)) < len(ips):
        fail("device_ip", "must differ from device to device")
    if sorted(ranks) != list(range(len(ranks))):
        fail("rank_id", f"must count from 0, not {sorted(ranks)}")


def chief_of(table):
    """The number of the card with rank 0."""
    devices = [device for server in table["server_list"] for device in server["device"]]
    return next(d["device_id"] for d in devices if d["rank_id"] == "0")
