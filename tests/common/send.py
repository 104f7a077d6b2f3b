"""Sends a list of operations to an NBD export through libnbd: a mover that is not ours.

usage: send.py URI RAW-FILE < operations.json
operations: {"connections": N, "window": N, "negotiate": "agent" | "plain", "flush": bool, "pause": PATH,
             "ops": [{"conn", "op": write|zero|trim|flush, "at", "len"}]}
Up to `window` requests are in flight on each connection, in the order given. Prints one JSON
object: the number of operations done and of errors, each with its errno name. With "pause": PATH
it stays connected after that, idle, until PATH is gone.
"""
import json
import os
import sys
import time

import nbd

uri, path = sys.argv[1], sys.argv[2]
plan = json.load(sys.stdin)
source = open(path, "rb")
handles = []
for _ in range(plan["connections"]):
    h = nbd.NBD()
    h.set_strict_mode(0)
    if plan.get("negotiate") == "agent":
        h.add_meta_context("base:allocation")
    h.connect_uri(uri)
    handles.append(h)

errors = []
done = 0
pending = [[] for _ in handles]


def reap(i, down_to):
    global done
    while len(pending[i]) > down_to:
        cookie, op, _keep = pending[i][0]
        while True:
            try:
                if handles[i].aio_command_completed(cookie):
                    break
            except nbd.Error as e:
                errors.append({"op": op, "errno": e.errno})
                break
            handles[i].poll(-1)
        pending[i].pop(0)
        done += 1


for op in plan["ops"]:
    i = op["conn"]
    h = handles[i]
    keep = None
    try:
        if op["op"] == "write":
            source.seek(op["at"])
            data = bytearray(source.read(op["len"])).ljust(op["len"], b"\1")
            keep = nbd.Buffer.from_bytearray(data)
            cookie = h.aio_pwrite(keep, op["at"])
        elif op["op"] == "zero":
            cookie = h.aio_zero(op["len"], op["at"])
        elif op["op"] == "trim":
            cookie = h.aio_trim(op["len"], op["at"])
        else:
            cookie = h.aio_flush()
    except nbd.Error as e:
        errors.append({"op": op, "errno": e.errno})
        continue
    pending[i].append((cookie, op, keep))
    reap(i, plan["window"] - 1)
for i, h in enumerate(handles):
    reap(i, 0)
    if plan.get("flush"):
        h.flush()
if plan.get("pause"):
    # Stay connected while the test completes the backup: deployed agents do so.
    print(json.dumps({"done": done, "errors": errors}), flush=True)
    while os.path.exists(plan["pause"]):
        time.sleep(0.02)
    for h in handles:
        h.shutdown()
    sys.exit(0)
for h in handles:
    h.shutdown()
print(json.dumps({"done": done, "errors": errors}))
