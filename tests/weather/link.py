#!/usr/bin/env python3
"""A bad network between two namespaces: `link.py BROWSER SERVICE`, as root.

Makes both namespaces, each with one end (`wx`, 10.66.0.2/16 and 10.66.0.1/16), and carries every IP packet between
them. What `tc netem` does in a kernel is done here, because not every kernel has netem and none has a seed. One JSON
object a line on standard input sets the weather from then on, for both ways or for `up` (from the browser) alone:

    {"loss": 0.05, "delay_ms": 100, "jitter_ms": 25, "reorder": 0.25, "rate_kbit": 300, "up": {"loss": 0.1},
     "is_dark": true, "blocks_udp": true}

What is left out is calm. Each line is answered by one with the packets and bytes of the time before. The namespaces
end with standard input.
"""

import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
SEED = 8
CALM = {"loss": 0, "delay_ms": 5, "jitter_ms": 0, "reorder": 0, "rate_kbit": 0}
# A packet that is reordered goes this much earlier than the others.
AHEAD_MS = 30
# What a bottleneck holds before it drops, ms at its rate.
QUEUE_MS = 300
UDP = 17


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def end(namespace, address):
    """The open device of a namespace's end."""
    name = f"wx{os.getpid() % 100000}"
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    ip("netns", "add", namespace)
    ip("link", "set", name, "netns", namespace, "name", "wx", "mtu", "1400")
    ip("-n", namespace, "link", "set", "lo", "up")
    ip("-n", namespace, "address", "add", address, "dev", "wx")
    ip("-n", namespace, "link", "set", "wx", "up")
    return device


class Way:
    """One direction: decides when each packet arrives, if it does."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.weather = dict(CALM)
        self.is_dark = self.blocks_udp = False
        self.free_at = 0.0
        self.counts = {"packets": 0, "bytes": 0, "lost": 0}

    def arrival(self, packet, now):
        weather = self.weather
        self.counts["packets"] += 1
        self.counts["bytes"] += len(packet)
        is_udp = len(packet) > 9 and packet[0] >> 4 == 4 and packet[9] == UDP
        if self.is_dark or (self.blocks_udp and is_udp) or self.random.random() < weather["loss"]:
            self.counts["lost"] += 1
            return None
        at = now
        if weather["rate_kbit"]:
            at = max(now, self.free_at)
            if at - now > QUEUE_MS / 1000:
                self.counts["lost"] += 1
                return None
            at = self.free_at = at + len(packet) * 8 / (weather["rate_kbit"] * 1000)
        delay = weather["delay_ms"]
        if weather["jitter_ms"]:
            delay = max(0, self.random.gauss(delay, weather["jitter_ms"] / 2))
        if weather["reorder"]:
            # All are late but a few.
            delay += 0 if self.random.random() < weather["reorder"] else AHEAD_MS
        return at + delay / 1000


def set_weather(ways, text):
    wanted = json.loads(text)
    counts = [way.counts for way in ways]
    for index, way in enumerate(ways):
        mine = {**wanted, **(wanted.get("up", {}) if index == 0 else {})}
        way.weather = {**CALM, **{name: value for name, value in mine.items() if name in CALM}}
        way.is_dark, way.blocks_udp = bool(mine.get("is_dark")), bool(mine.get("blocks_udp"))
        way.free_at = 0.0
        way.counts = {"packets": 0, "bytes": 0, "lost": 0}
    print(json.dumps({"up": counts[0], "down": counts[1]}), flush=True)


def carry(devices):
    ways = [Way(SEED), Way(SEED + 1)]
    waiting, number, commands = [], 0, b""
    while True:
        timeout = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([*devices, 0], [], [], timeout)
        if 0 in readable:
            read = os.read(0, 65536)
            if not read:
                return
            *lines, commands = (commands + read).split(b"\n")
            for line in lines:
                set_weather(ways, line)
        for index, device in enumerate(devices):
            if device not in readable:
                continue
            try:
                while packet := os.read(device, 2048):
                    at = ways[index].arrival(packet, time.monotonic())
                    if at is not None:
                        number += 1
                        heapq.heappush(waiting, (at, number, 1 - index, packet))
            except BlockingIOError:
                pass
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, to, packet = heapq.heappop(waiting)
            try:
                os.write(devices[to], packet)
            except OSError:
                pass  # the end is down for a moment, as a cable that is pulled


def main():
    browser, service = sys.argv[1:3]
    made = []
    try:
        devices = []
        for namespace, address in ((browser, "10.66.0.2/16"), (service, "10.66.0.1/16")):
            made.append(namespace)
            devices.append(end(namespace, address))
        print("ready", flush=True)
        carry(devices)
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "del", namespace], check=False)


if __name__ == "__main__":
    main()
