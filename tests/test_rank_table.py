"""Rank tables: a table that HCCL would refuse is refused before any card starts."""

import json
from copy import deepcopy

import pytest
import rank_table
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import InputError

ADDRESSES = {number: f"192.0.2.1{number}" for number in range(8)}


@pytest.mark.parametrize("devices", [[0], [3], [0, 1], [5, 7], [4, 5, 6, 7], range(8)])
def test_a_table_holds_every_device_once_in_the_order_of_ranks(tmp_path, devices):
    devices = list(devices)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(rank_table.make(devices, ADDRESSES)))
    (server,) = rank_table.read(path)["server_list"]
    found = [
        (int(row["rank_id"]), int(row["device_id"]), row["device_ip"])
        for row in server["device"]
    ]
    assert found == [(k, n, ADDRESSES[n]) for k, n in enumerate(devices)]


@given(st.lists(st.integers(-1, 9), min_size=1, max_size=9))
def test_devices_pass_exactly_where_the_card_allows_them(devices):
    allowed = (
        len(set(devices)) == len(devices) in (1, 2, 4, 8)
        and all(0 <= n <= 7 for n in devices)
        and (len(devices) == 8 or len({n // 4 for n in devices}) == 1)
    )
    if allowed:
        rank_table.check_devices(devices)
    else:
        with pytest.raises(InputError, match="^devices "):
            rank_table.check_devices(devices)


def test_a_device_without_an_address_is_named():
    with pytest.raises(InputError, match="device 3 has no network address: add a line"):
        rank_table.make([2, 3], {2: "192.0.2.12"})


def test_addresses_are_read_as_the_host_keeps_them(tmp_path):
    path = tmp_path / "hccn.conf"
    path.write_text("address_0=192.0.2.10\nnetmask_0=255.0.0.0\n\naddress_12 = ::1\n")
    assert rank_table.read_addresses(path) == {0: "192.0.2.10", 12: "::1"}


def with_change(change):
    table = deepcopy(rank_table.make([0, 1], ADDRESSES))
    change(table, table["server_list"][0], table["server_list"][0]["device"])
    return table


BAD = {
    "no status": (lambda t, s, d: t.pop("status"), "the table: 'status' is a required"),
    "not ready": (
        lambda t, s, d: t.update(status="initializing"),
        "status: 'completed' was expected",
    ),
    "version": (lambda t, s, d: t.update(version="1.2"), "version: '1.0' was expected"),
    "count": (lambda t, s, d: t.update(server_count="2"), "server_count must be the"),
    "number": (lambda t, s, d: t.update(server_count=1), "server_count: 1 is not of"),
    "no server": (
        lambda t, s, d: s.pop("server_id"),
        r"server_list\[0\]: 'server_id' is a required",
    ),
    "no ip": (
        lambda t, s, d: d[1].pop("device_ip"),
        r"server_list\[0\].device\[1\]: 'device_ip' is a required",
    ),
    "not text": (
        lambda t, s, d: d[1].update(rank_id=1),
        r"server_list\[0\].device\[1\].rank_id: 1 is not of type 'string' .* in quotes",
    ),
    "not ip": (
        lambda t, s, d: d[0].update(device_ip="192.0.2"),
        r"device\[0\].device_ip: '192.0.2' is not a 'ip'",
    ),
    "rank": (
        lambda t, s, d: d[0].update(rank_id="-1"),
        r"device\[0\].rank_id: '-1' does not match",
    ),
    "huge rank": (
        lambda t, s, d: d[0].update(rank_id="9" * 5000),
        "does not match",
    ),
    "same ip": (
        lambda t, s, d: d[0].update(device_ip="192.0.2.11"),
        "device_ip must dif",
    ),
    "gap": (lambda t, s, d: d[1].update(rank_id="2"), r"in a row, not \[0, 2\]"),
    "ranks": (
        lambda t, s, d: (d[0].update(rank_id="1"), d[1].update(rank_id="2")),
        r"must count from 0, not \[1, 2\]",
    ),
    "list": (
        lambda t, s, d: s.update(device=None),
        "device: None is not of type 'array'",
    ),
    "name": (lambda t, s, d: s.update(server_id=[]), "server_id: \\[\\] is not of"),
    "long": (lambda t, s, d: s.update(server_id="x" * 65), "is too long"),
    "empty": (
        lambda t, s, d: t.update(server_count="0", server_list=[]),
        "server_list: ",
    ),
    "uneven": (
        lambda t, s, d: t.update(
            server_count="2",
            server_list=[
                s,
                {
                    "server_id": "b",
                    "device": [
                        {"device_id": "0", "device_ip": "192.0.2.99", "rank_id": "2"}
                    ],
                },
            ],
        ),
        "must be as many as on the first server",
    ),
    "rings": (lambda t, s, d: d[1].update(device_id="4"), "devices 0, 4: an Asc"),
    "twice": (lambda t, s, d: d[1].update(device_id="0"), "devices 0, 0: an Asc"),
    "servers": (
        lambda t, s, d: t.update(server_count="2", server_list=[s, s]),
        "server_id must differ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_named_with_its_place(name):
    change, sentence = BAD[name]
    with pytest.raises(InputError, match=sentence):
        rank_table.check(with_change(change), "table.json:")


def test_a_table_with_comments_is_no_json(tmp_path):
    path = tmp_path / "table.json"
    path.write_text('{"status": "completed" // ready\n}')
    with pytest.raises(InputError, match="cannot be read .* is JSON without comments"):
        rank_table.read(path)


def test_ranks_may_stand_in_any_order():
    table = rank_table.make([4, 5], ADDRESSES)
    table["server_list"][0]["device"].reverse()
    rank_table.check(table, "here")
    assert rank_table.find_chief(table) == 4


def test_a_card_is_opened_by_its_place_among_those_of_the_container(tmp_path):
    assert rank_table.find_logical([4, 5], tmp_path) == {4: 4, 5: 5}  # no nodes: all
    for name in ("davinci4", "davinci5", "davinci6", "davinci7", "davinci_manager"):
        (tmp_path / name).touch()
    assert rank_table.find_logical([6, 4], tmp_path) == {6: 2, 4: 0}
    with pytest.raises(InputError, match="device 0 is not here: .* cards 4, 5, 6, 7;"):
        rank_table.find_logical([0, 4], tmp_path)


def test_renumbered_cards_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,5")
    with pytest.raises(InputError, match="unset it and choose cards by --devices"):
        rank_table.find_logical([0, 1], tmp_path)


def test_equal_cards_of_two_servers_have_folders_of_their_own():
    cards = [(host, card) for host in range(3) for card in range(8)]
    assert len({rank_table.number_folder(*each) for each in cards}) == len(cards)
    assert rank_table.number_folder(0, 5) == 5
