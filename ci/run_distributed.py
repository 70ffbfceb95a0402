"""Starts one run of a notebook per device; called by run_distributed.sh."""

import argparse
import importlib.util
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

from lib import rank_table
from lib.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
LINES_SHOWN = 30  # of the log of a worker that failed


def main():
    """Starts what the command line asks for; returns the exit status."""
    options = parse(sys.argv[1:])
    os.chdir(ROOT)
    try:
        devices = devices_of(options.devices)
        hosts = options.hosts.split(",") if options.hosts else []
        if options.engine == "npu":
            table = table_of(options, devices)
            environments = of_npus(table, devices, options)
        else:
            environments = of_tensorflow(devices, hosts, options)
        workers = [worker(options, number, env) for number, env in environments]
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    if options.dry_run:
        for name, log, command, env in workers:
            words = [f"{key}={shlex.quote(value)}" for key, value in env.items()]
            print(f"# {name}\n{' '.join(words)} {shlex.join(command)} > {log} 2>&1 &")
        return 0
    return run(workers)


def parse(arguments):
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
        help="how many of this host, from 0; or which, as in 4-7 or 0,1 (default: 8)",
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
        "written to output/rank_table.json)",
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
        "--host", type=int, default=0, help="which of --hosts this is, from 0"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be started"
    )
    parser.add_argument("--called-from", default=".", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.engine == "auto":
        there = importlib.util.find_spec("npu_device") is not None
        options.engine = "npu" if there else "tensorflow"
    return options


def devices_of(text):
    """``"8"`` -> 0 to 7, ``"4-7"`` -> 4 to 7, ``"0,2"`` -> 0 and 2."""
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
            f"--devices {text}: give a count, or numbers as in 4-7 or 0,1."
        )
    return devices


def table_of(options, devices):
    """Path and content of the rank table: one that is given, or a new one."""
    given = options.rank_table or os.environ.get("RANK_TABLE_FILE")
    if given:
        path = Path(options.called_from, given).resolve()
        return path, rank_table.read(path)
    rank_table.check_devices(devices)
    addresses = rank_table.addresses_of(Path(options.called_from, options.addresses))
    table = rank_table.make(devices, addresses)
    path = ROOT / "output" / "rank_table.json"
    if not options.dry_run:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return path, table


def of_npus(table, devices, options):
    """Yields ``(device, environment)`` for the cards of this host."""
    path, table = table
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
    size = sum(len(server["device"]) for server in servers)
    chief = servers[0]["device"][0]["device_id"]
    for number in devices:
        env = {"RANK_ID": ranks[number], "RANK_SIZE": str(size)}
        if size > 1:
            env["RANK_TABLE_FILE"] = str(path)
        env.update(ASCEND_DEVICE_ID=str(number), CHIEF_DEVICE_ID=chief)
        yield number, {**env, "JOB_ID": os.environ.get("JOB_ID", "10087")}


def of_tensorflow(devices, hosts, options):
    """Yields ``(device, environment)`` for the processes of this host."""
    if hosts and not 0 <= options.host < len(hosts):
        raise InputError(f"--host {options.host}: --hosts names {len(hosts)}.")
    if hosts:
        addresses = []
        for text in hosts:
            host, _, port = text.rpartition(":")
            if not host or not port.isdecimal():
                raise InputError(f"--hosts {text}: write host:port, as in node1:20000.")
            addresses += [f"{host}:{int(port) + k}" for k in range(len(devices))]
    else:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(len(devices))]
    first = options.host * len(devices)
    share = str(max(os.cpu_count() // len(devices), 1))
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", share)
    for k, number in enumerate(devices):
        env = {"ASCEND_DEVICE_ID": str(number), "CHIEF_DEVICE_ID": str(devices[0])}
        if len(addresses) > 1:
            task = {"type": "worker", "index": first + k}
            config = {"cluster": {"worker": addresses}, "task": task}
            env["TF_CONFIG"] = json.dumps(config)
        yield number, {**env, "TF_NUM_INTRAOP_THREADS": threads}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def worker(options, number, env):
    """Name, log, command and environment of one worker."""
    settings = yaml.safe_load("\n".join(s.replace("=", ": ", 1) for s in options.set))
    output = Path((settings or {}).get("output_dir", "output"))
    folder = (ROOT / output / str(number)).resolve()
    command = [sys.executable, "ci/run.py", "--called-from", options.called_from]
    command += ["--params", options.params, "--executed", str(folder / "executed")]
    for text in options.set:
        command += ["--set", text]
    return f"device {number}", folder / f"train_{number}.log", command, env


def run(workers):
    """Starts all; when one fails, ends the others and shows its log."""
    started = []
    for name, log, command, env in workers:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command,
                env={**os.environ, **env},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, kernel included
            )
        started.append((name, log, process))
        print(f"{name}: process {process.pid}, log {os.path.relpath(log, ROOT)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = None
    try:
        while failed is None and any(p.poll() is None for _, _, p in started):
            time.sleep(0.2)
            failed = next((s for s in started if s[2].poll()), None)
    finally:
        for _, _, process in started:
            end(process)
    if failed is None:
        failed = next((s for s in started if s[2].poll()), None)
    if failed:
        name, log, process = failed
        print("\n".join(said(log)[-LINES_SHOWN:]))
        how = f"exit status {process.returncode}"
        if process.returncode < 0:
            how = f"killed by {signal.Signals(-process.returncode).name}"
        print(
            f"\nFAILED: {name} ({how}); its log ends above, all workers were ended. "
            "Start again to go on from the last checkpoint."
        )
        return 1
    print("\n".join(said(started[0][1])))
    return 0


def said(log):
    """The lines of a log, without papermill's progress bar."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line and not line.startswith("Executing:")]


def end(process):
    """Ends a worker and its kernel, which is in the same group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    sys.exit(main())
