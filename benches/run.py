#!/usr/bin/env python3
"""Measures the real-time server beside its peers: server on CPU 0, client on CPU 1, round by round.

  benches/run.py --server PROGRAM [--rounds 3] [--peers realtime,nchan,nats,mosquitto,centrifuge,floor-coalesce]
                 [--scenarios fan-out,moderate,channels,idle,idle-es256] [--out FILE.jsonl]
  benches/run.py --summary FILE.jsonl

PROGRAM is a release build of `realtime`; rtbench is looked for in $RTBENCH (a folder with `rtbench` and `floor`). Peers come
from Debian's packages (nginx-light libnginx-mod-nchan, nats-server, mosquitto); Centrifuge is built from Debian's
golang-github-centrifugal-centrifuge-dev if Go is there (Debian 12 forgets that it needs golang-github-fzambia-eagle-dev,
golang-github-centrifugal-protocol-dev, golang-github-igm-sockjs-go-dev and golang-github-mna-redisc-dev). Peers that are not
installed are left out, and named.

A run during which other programs used more than a tenth of a core is marked as noisy and tried again, three times at most.
Only processes started here are ended, each by its pid. All addresses are on loopback.
"""
import argparse, base64, json, os, shlex, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = os.path.join(HERE, "peers")
RTBENCH = os.environ.get("RTBENCH", "")
SECRET = "secret"

# name of the scenario: (mode, arguments, what it shows)
SCENARIOS = {
    "fan-out": ("sat", "--subs 1000 --secs 5"),
    "moderate": ("rate", "--subs 1000 --rate 100 --secs 6 --warmup 1"),
    "channels": ("sat", "--subs 5000 --chans 1000 --secs 5"),
    "idle": ("idle", "--subs 8000 --secs 3"),
    "idle-es256": ("idle", "--subs 8000 --secs 1"),
}


def peers(server, work):
    """Name: (command, port, arguments for rtbench, arguments for many channels, environment)."""
    hotsock = f"--proto hotsock --path /v1 --secret {SECRET} --key unused"
    ours = {"REALTIME_SIGNING_KEYS_1_KEY": base64.b64encode(SECRET.encode()).decode()}
    if public := os.environ.get("REALTIME_BENCH_PUBLIC_KEY"):
        ours |= {"REALTIME_SIGNING_KEYS_2_METHOD": "ES256", "REALTIME_SIGNING_KEYS_2_KEY": public}
    table = {
        "floor-coalesce": (f"{RTBENCH}/floor 7311 {SECRET} key coalesce", 7311, f"--proto hotsock --secret {SECRET}", "", {}),
        "nchan": (f"nginx -p {work}/nginx -c {PEERS}/nchan.conf", 7304, "--proto nchan", "--publish http", {}),
        "nats": ("nats-server -c nats.conf", 7305, "--proto nats", "", {}),
        "mosquitto": ("mosquitto -c mosquitto.conf", 7306, "--proto mqtt", "", {}),
        "centrifuge": (f"{work}/centrifuge 127.0.0.1:7307", 7307, "--proto centrifuge-v1", "", {}),
    }
    if server:
        command = f"{server} serve --listen tcp:127.0.0.1:7400 --data-dir {work}/data --log-level warn"
        table["realtime"] = (command, 7400, hotsock, "", ours)
    return table


def busy_seconds():
    with open("/proc/stat") as stat:
        v = [int(x) for x in stat.readline().split()[1:9]]
    return (v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        before = busy_seconds()
        time.sleep(1)
        if busy_seconds() - before < 0.15:
            return


class Server:
    def __init__(self, name, command, port, environment, work):
        log = open(f"{work}/{name}.log", "wb")
        os.makedirs(f"{work}/nginx", exist_ok=True)
        self.process = subprocess.Popen(["taskset", "-c", "0"] + shlex.split(command), cwd=PEERS, stdout=log, stderr=log,
                                        env=dict(os.environ, **environment))
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            self.stop()
            raise RuntimeError(f"{name} did not open port {port}; its output is in {log.name}")
        time.sleep(0.5)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def missing(name, table):
    program = shlex.split(table[name][0])[0]
    return None if shutil.which(program) else program


def build_centrifuge(work):
    if shutil.which("go") and os.path.isdir("/usr/share/gocode/src/github.com/centrifugal/centrifuge"):
        subprocess.run(["go", "build", "-o", f"{work}/centrifuge", f"{PEERS}/centrifuge-server.go"], check=False,
                       env=dict(os.environ, GO111MODULE="off", GOPATH="/usr/share/gocode"))


def measure(options, work):
    table = peers(options.server, work)
    if "centrifuge" in options.peers and not os.path.exists(f"{work}/centrifuge"):
        build_centrifuge(work)
    for round_ in range(options.rounds):
        for name in options.peers.split(","):
            if absent := missing(name, table):
                print(f"{name}: left out, {absent} is not installed", flush=True)
                continue
            command, port, arguments, many, environment = table[name]
            for scenario in options.scenarios.split(","):
                es256 = os.environ.get("REALTIME_BENCH_ES256_TOKEN")
                if scenario == "idle-es256" and (name != "realtime" or not es256):
                    continue
                mode, flags = SCENARIOS[scenario]
                for attempt in range(3):
                    wait_until_quiet()
                    server = Server(name, command, port, environment, work)
                    line = ["taskset", "-c", "1", f"{RTBENCH}/rtbench", mode, "--addr", f"127.0.0.1:{port}",
                            "--server-pid", str(server.process.pid)] + arguments.split() + flags.split()
                    line += many.split() if scenario == "channels" else []
                    line += ["--token", es256] if scenario == "idle-es256" else []
                    try:
                        result = subprocess.run(line, capture_output=True, text=True, timeout=120)
                    finally:
                        server.stop()
                    if result.returncode or not result.stdout.strip():
                        print(name, scenario, "failed:", result.stderr.strip()[-300:], flush=True)
                        break
                    row = json.loads(result.stdout.strip().splitlines()[-1])
                    row.update(label=name, scenario=scenario, round=round_, noisy=row.get("foreign_cpu_s", 0) > 0.1 * row.get("secs", 1))
                    if not row["noisy"] or attempt == 2:
                        with open(options.out, "a") as out:
                            out.write(json.dumps(row) + "\n")
                        shown = row.get("deliveries_per_s") or row.get("conn_per_s")
                        print(round_, name, scenario, round(shown), "noisy" if row["noisy"] else "", flush=True)
                        break


def summary(path):
    rows = {}
    for line in open(path):
        row = json.loads(line)
        rows.setdefault((row["label"], row["scenario"]), []).append(row)

    def median(name, scenario, key):
        values = [row[key] for row in rows.get((name, scenario), []) if row.get(key) is not None]
        return statistics.median(values) if values else float("nan")

    print("| | 1 → 1,000 at saturation: deliveries/s, CPU s/M | 1 → 1,000 at 100/s: p99 ms, CPU s/M | 1,000 × 5 at saturation:"
          " deliveries/s, CPU s/M | KiB per idle connection | connections/s HS256 (CPU ms) | ES256 (CPU ms) |")
    print("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(key[0] for key in rows):
        m = lambda scenario, key: median(name, scenario, key)
        print(f"| {name} | {m('fan-out', 'deliveries_per_s') / 1e6:.2f} M, {m('fan-out', 'server_cpu_s_per_M'):.2f}"
              f" | {m('moderate', 'p99_us') / 1e3:.1f}, {m('moderate', 'server_cpu_s_per_M'):.2f}"
              f" | {m('channels', 'deliveries_per_s') / 1e3:.0f} k, {m('channels', 'server_cpu_s_per_M'):.1f}"
              f" | {m('idle', 'rss_per_conn_kib'):.2f}"
              f" | {m('idle', 'conn_per_s'):.0f} ({m('idle', 'conn_cpu_ms'):.3f})"
              f" | {m('idle-es256', 'conn_per_s'):.0f} ({m('idle-es256', 'conn_cpu_ms'):.3f}) |")
    wrong = {key: sum(row.get("missing", 0) + row.get("dup_or_reordered", 0) + row.get("closed", 0) for row in group)
             for key, group in rows.items()}
    noisy = sum(row["noisy"] for group in rows.values() for row in group)
    print(f"\nRuns: {sum(map(len, rows.values()))}, of which noisy: {noisy}. Messages missing, doubled or reordered, or"
          f" connections closed: {({f'{n} {s}': count for (n, s), count in wrong.items() if count} or 'none')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="a release build of realtime")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="realtime,floor-coalesce,nchan,nats,mosquitto,centrifuge")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--out", default="target/bench.jsonl")
    parser.add_argument("--summary", metavar="FILE", help="print the table of what was measured")
    options = parser.parse_args()
    if options.summary:
        return summary(options.summary)
    if not options.server or not shutil.which(f"{RTBENCH}/rtbench"):
        parser.error("--server must name a build of realtime, and $RTBENCH a folder with rtbench; `make bench` knows both")
    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        measure(options, work)
    summary(options.out)


if __name__ == "__main__":
    sys.exit(main())
