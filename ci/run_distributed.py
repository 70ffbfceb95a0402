"""Starts one run of a notebook per device; called by run_distributed.sh."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import socket
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import plan
import processes
import rank_table
import yaml
from processes import Worker

from lib import files
from lib.errors import InputError
from lib.files import ROOT

TRAIN_TOGETHER = ("03_stamp", "04_mf")  # notebooks whose model several workers train


def main() -> int:
    """Starts the job of the command line; returns the exit status."""
    options = parse_options(sys.argv[1:])
    jobs = plan_jobs(options)  # in turn: a list in a params file makes several
    os.chdir(ROOT)
    try:
        for name, params, output in jobs:
            check_notebook(params["notebook"])
            workers = plan_workers(options, name, params, output)
            if options.dry_run:
                print_commands(workers)
            elif not processes.run(workers):
                return 1
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def plan_jobs(options: Namespace) -> list[tuple[str, dict, Path]]:
    """Returns ``(name, parameters, output folder)`` of every run, all checked."""
    jobs = []
    options.only, options.again = None, True
    for name, notebook, parameters, _ in plan.list_runs(options):
        if options.engine == "npu":
            parameters["device"] = "npu"  # never eight runs on CPUs
        output = files.resolve(parameters.get("output_dir", "output"))
        jobs.append((name, {"notebook": notebook.stem, **parameters}, output))
    return jobs


def check_notebook(name: str) -> None:
    """Refuses a notebook that is not made to be one of several workers."""
    if name not in TRAIN_TOGETHER:
        raise InputError(
            f"{name} runs as one program; bash ci/run.sh --params starts it. Several "
            f"devices train the notebooks {' and '.join(TRAIN_TOGETHER)}: name one of "
            "them in the params file."
        )


def plan_workers(
    options: Namespace, name: str, parameters: dict, output: Path
) -> Iterator[Worker]:
    """Yields every worker of this host."""
    devices = parse_devices(options.devices)
    if options.engine == "npu":
        environments = assign_npus(devices, options)
    else:
        environments = assign_processes(devices, options)
    job = output / "jobs" / f"{name}.yaml"
    if not options.dry_run:
        files.write_text(job, yaml.safe_dump(parameters, sort_keys=False))
    for number, env in environments:
        folder = output / str(number)
        command = [sys.executable, "ci/execute.py", "--params", str(job)]
        command += ["--executed", str(folder / "executed")]
        yield f"device {number}", folder / f"worker_{number}.log", command, env


def print_commands(workers: Iterable[Worker]) -> None:
    """Prints the workers as shell commands."""
    for name, log, command, env in workers:
        words = [f"{key}={shlex.quote(value)}" for key, value in env.items()]
        print(f"# {name}\n{' '.join(words)} {shlex.join(command)} > {log} 2>&1 &")


def parse_options(arguments: list[str]) -> Namespace:
    parser = argparse.ArgumentParser(
        prog="bash ci/run_distributed.sh",
        description="Trains one model on several devices: one run of a notebook per "
        "device, each with its share of every batch.",
    )
    parser.add_argument("--params", metavar="FILE", required=True, help="as in run.sh")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="as in run.sh"
    )
    parser.add_argument(
        "--devices",
        default="8",
        metavar="N",
        help="how many of this host, from 0; or which, as in 4-7 or 0,1: on NPUs their "
        "physical numbers, as in /dev/davinci* (default: 8)",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "npu", "tensorflow"),
        default="auto",
        help="auto takes npu where npu_device is installed, else TensorFlow's own",
    )
    parser.add_argument(
        "--rank-table",
        metavar="FILE",
        help="NPUs: a table that is there (default: $RANK_TABLE_FILE, else one is "
        "written, as output/rank_table_0-7.json)",
    )
    parser.add_argument(
        "--addresses",
        metavar="FILE",
        default="/etc/hccn.conf",
        help="NPUs: the cards' network addresses, for writing a table",
    )
    parser.add_argument(
        "--hosts",
        metavar="A:PORT,B:PORT",
        help="without NPUs: the first worker's address on every host, in the order of "
        "their ranks; the others take the ports after it (default: this host alone)",
    )
    parser.add_argument(
        "--host",
        type=int,
        default=0,
        help="which host this is, from 0: in --hosts, or in server_list of the table",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be started"
    )
    parser.add_argument("--called-from", default=".", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.engine == "auto":
        there = importlib.util.find_spec("npu_device") is not None
        options.engine = "npu" if there else "tensorflow"
        if not there:
            print("TensorFlow's own engine, for CPUs and GPUs: no npu_device is found")
    return options


def parse_devices(text: str) -> list[int]:
    """Reads device numbers: ``"8"`` is 0 to 7, ``"4-7"`` 4 to 7, ``"0,2"`` 0 and 2."""
    try:
        if "," in text:
            devices = [int(part) for part in text.split(",")]
        elif "-" in text:
            first, last = map(int, text.split("-"))
            devices = list(range(first, last + 1))
        else:
            devices = list(range(int(text)))
    except ValueError:
        devices = []
    if not devices:
        raise InputError(
            f"--devices {text}: write a count, or numbers as in 4-7 or 0,1."
        )
    return devices


def find_rank_table(
    options: Namespace, devices: list[int]
) -> tuple[Path | None, dict | None]:
    """Returns path and content of the rank table that exists, or of a new one."""
    existing = options.rank_table or os.environ.get("RANK_TABLE_FILE")
    if existing:
        path = Path(options.called_from, existing).resolve()
        return path, rank_table.read(path)
    rank_table.check_devices(devices)
    if len(devices) == 1:
        return None, None  # a single card reads no table
    addresses = rank_table.read_addresses(Path(options.called_from, options.addresses))
    table = rank_table.make(devices, addresses)
    name = f"rank_table_{devices[0]}-{devices[-1]}.json"
    path = ROOT / "output" / name
    if not options.dry_run:
        files.write_text(path, json.dumps(table, indent=1) + "\n")
    return path, table


def assign_npus(
    devices: list[int], options: Namespace
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields ``(device, environment)`` for the cards of this host."""
    logical = rank_table.find_logical(devices)  # before a table is written
    path, table = find_rank_table(options, devices)
    if table is None:
        (number,) = devices
        env = {"ASCEND_DEVICE_ID": str(logical[number]), "RUN_FOLDER": str(number)}
        yield number, env
        return
    servers = table["server_list"]
    if not 0 <= options.host < len(servers):
        raise InputError(f"--host {options.host}: {path} has {len(servers)} servers.")
    ranks = {
        int(device["device_id"]): device["rank_id"]
        for device in servers[options.host]["device"]
    }
    if sorted(ranks) != sorted(devices):
        raise InputError(
            f"--devices {options.devices}: {path} has {sorted(ranks)} on this server; "
            "all of them must start."
        )
    size = len(rank_table.list_devices(table))
    for number in devices:
        env = {"RANK_ID": ranks[number], "RANK_SIZE": str(size)}
        env.update(RANK_TABLE_FILE=str(path), ASCEND_DEVICE_ID=str(logical[number]))
        folder = rank_table.number_folder(options.host, number)
        env["RUN_FOLDER"] = str(folder)
        env["CHIEF_FOLDER"] = str(rank_table.find_chief(table))
        for name, default in (("JOB_ID", "10087"), ("HCCL_CONNECT_TIMEOUT", "600")):
            env[name] = os.environ.get(name, default)
        yield folder, env


def assign_processes(
    devices: list[int], options: Namespace
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields ``(device, environment)`` for the processes of this host.

    With several hosts, the numbering continues from host to host, so that folders
    differ.
    """
    hosts = options.hosts.split(",") if options.hosts else []
    if hosts and not 0 <= options.host < len(hosts):
        raise InputError(f"--host {options.host}: --hosts names {len(hosts)}.")
    if len(set(devices)) < len(devices):
        raise InputError(f"--devices {options.devices}: the numbers must differ.")
    first = options.host * len(devices)
    numbers, addresses = list(devices), []
    for text in hosts:
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal():
            raise InputError(f"--hosts {text}: write host:port, as in node1:20000.")
        addresses += [f"{host}:{int(port) + k}" for k in range(len(devices))]
    if hosts:
        numbers = list(range(first, first + len(devices)))
    else:
        addresses = [f"127.0.0.1:{port}" for port in find_free_ports(len(devices))]
    share = str(max((os.cpu_count() or 1) // len(devices), 1))
    for k, number in enumerate(numbers):
        env = {"ASCEND_DEVICE_ID": str(number)}
        if len(addresses) > 1:
            env["CHIEF_FOLDER"] = "0" if hosts else str(devices[0])
            task = {"type": "worker", "index": first + k}
            config = {"cluster": {"worker": addresses}, "task": task}
            env["TF_CONFIG"] = json.dumps(config)
            env["CUDA_VISIBLE_DEVICES"] = str(devices[k])
        env["TF_NUM_INTRAOP_THREADS"] = os.environ.get("TF_NUM_INTRAOP_THREADS", share)
        yield number, env


def find_free_ports(count: int) -> list[int]:
    """Returns ports of this host that no process listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
