"""Good files cut off and with bits turned over: by a fixed seed, so that every run meets the same."""

import random

from codes import DAMAGED, EMPTY, OK, TYPE

FLIPS = [1, 4, 16, 64, 256]


def add(corpus, good):
    corpus.add("nothing.mp4", b"", EMPTY, EMPTY)
    corpus.add("nothing.jpg", b"", EMPTY, EMPTY)
    corpus.add("one_byte.mp4", b"\0", TYPE, TYPE)
    corpus.add("one_byte.jpg", b"\xff", TYPE, TYPE)
    for name, data in sorted(good.items()):
        if not name.startswith("good"):
            continue
        stem, extension = name.split(".")
        is_picture = extension in ("jpg", "png", "gif", "webp", "bmp", "tiff", "avif")
        # An AVIF picture is a file of the kind that videos are.
        as_video = DAMAGED if extension == "avif" else TYPE
        def variant(what, data):
            expected = (DAMAGED, as_video) if is_picture else (TYPE, DAMAGED)
            corpus.add(f"{stem}_{what}.{extension}", data, *expected)

        corpus.add(name, data, *(({OK}, as_video) if is_picture else (TYPE, {OK})))
        cuts = [2, 8, 12, 40, len(data) // 8, len(data) // 3, len(data) // 2, len(data) * 7 // 8, len(data) - 1]
        for cut in sorted(set(cuts)):
            variant(f"cut_{cut}", data[:cut])
        noise = random.Random(name)
        for flips in FLIPS:
            variant(f"flipped_{flips}", flipped(noise, data, flips))
        # Headers decide more than contents do.
        for turn in range(3):
            variant(f"head_flipped_{turn}", flipped(noise, data[:600], 6) + data[600:])
        variant("block_doubled", rearranged(noise, data, keep=2))
        variant("block_lost", rearranged(noise, data, keep=0))


def flipped(noise, data, count):
    data = bytearray(data)
    for _ in range(count):
        # The first bytes tell what a file is; without them there would be little to try.
        at = noise.randrange(min(16, len(data) - 1), len(data))
        data[at] ^= 1 << noise.randrange(8)
    return bytes(data)


def rearranged(noise, data, keep):
    """A block of the file, left out or there twice."""
    length = noise.randrange(1, max(2, len(data) // 4))
    at = noise.randrange(16, len(data) - length)
    return data[:at] + data[at:at + length] * keep + data[at + length:]
