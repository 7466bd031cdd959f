"""ISO base media boxes (ISO/IEC 14496-12 §4.2): taken apart, changed and put together again."""

import struct

NESTED = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts", b"moof", b"traf", b"mvex"}


def box(kind, data):
    return struct.pack(">I", len(data) + 8) + kind + data


def full_box(kind, data):
    """A box with version and flags, both 0."""
    return box(kind, bytes(4) + data)


def parse(data):
    """The boxes of `data` as [kind, contents]; contents are bytes or again such a list."""
    boxes, at = [], 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            raise ValueError(f"box {kind} of {size} bytes at {at}")
        contents = data[at + 8:at + size]
        boxes.append([kind, parse(contents) if kind in NESTED else contents])
        at += size
    return boxes


def build(boxes):
    parts = []
    for kind, contents in boxes:
        parts.append(box(kind, contents if isinstance(contents, bytes) else build(contents)))
    return b"".join(parts)


def find(boxes, kind):
    """Every box of `kind`, at any depth, to be changed in place."""
    for entry in boxes:
        if entry[0] == kind:
            yield entry
        if not isinstance(entry[1], bytes):
            yield from find(entry[1], kind)


def set_u32(entry, at, *values):
    """Writes big-endian numbers over the contents of a box, from byte `at`."""
    data = bytearray(entry[1])
    struct.pack_into(f">{len(values)}I", data, at, *values)
    entry[1] = bytes(data)
