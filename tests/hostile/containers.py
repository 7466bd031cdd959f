"""Video files whose tables, sizes and headers lie."""

import random
import struct

from boxes import box, build, find, full_box, parse, set_u32
from codes import AUDIO, BROKEN, LARGE, MAYBE, OK, TYPE

HOURS_10 = 36_000
CODEC = {"unsupported_codec"}
ANY = MAYBE | AUDIO | CODEC


def add(corpus, good):
    def video(name, data, codes):
        corpus.add(name, data, TYPE, codes)

    for name in ["sound.m4a", "sound.mka", "sound.avi", "sound.ts"]:
        video(name, good[name], AUDIO)
    for name in ["sound.wav", "sound.mp3"]:
        video(name, good[name], TYPE)
    for name, (data, codes) in mp4s(good).items():
        video(name, data, codes)
    for name, (data, codes) in matroskas(good["good.mkv"]).items():
        video(name, data, codes)
    for name, (data, codes) in streams(good).items():
        video(name, data, codes)


def changed(data, kind, at, *values):
    """`data` with numbers written into every box of `kind`."""
    tree = parse(data)
    for entry in find(tree, kind):
        set_u32(entry, at, *values)
    return build(tree)


def mp4s(good):
    mp4, fragments = good["good.mp4"], good["good-fragments.mp4"]
    made = {
        "ten_hours_one_frame.mp4": (stretched(good["one-frame.mp4"], [(1, HOURS_10)]), MAYBE | {"too_long"}),
        "ten_hours_two_frames.mp4": (stretched(good["two-frames.mp4"], [(1, HOURS_10), (1, 1)]), MAYBE | {"too_long"}),
        "thousand_years.mp4": (changed(changed(mp4, b"mvhd", 16, 0xfffffffe), b"mdhd", 16, 0xfffffffe), MAYBE | {"too_long"}),
        "clock_of_zero.mp4": (changed(mp4, b"mdhd", 12, 0), ANY),
        "edits_far.mp4": (changed(mp4, b"elst", 8, 0x7fffffff, 0x7fffffff), ANY),
        "picture_huge.mp4": (with_size(mp4, 65_535), ANY | LARGE),
        "depth.mp4": (nested(20_000), BROKEN | AUDIO),
        "box_of_nothing.mp4": (box(b"ftyp", b"isom\0\0\2\0") + b"\0\0\0\4moov" * 1000, BROKEN | AUDIO),
        "box_to_itself.mp4": (box(b"ftyp", b"isom\0\0\2\0") + struct.pack(">I4sQ", 1, b"moov", 0) * 100, BROKEN | AUDIO),
        "box_of_exabytes.mp4": (box(b"ftyp", b"isom\0\0\2\0") + struct.pack(">I4sQ", 1, b"moov", 1 << 63), BROKEN | AUDIO),
        "only_ftyp.mp4": (box(b"ftyp", b"isom\0\0\2\0"), BROKEN | AUDIO),
        "no_samples.mp4": (changed(mp4, b"stsz", 8, 0), ANY),
        "no_data.mp4": (build([entry for entry in parse(mp4) if entry[0] != b"mdat"]), ANY),
        "moov_twice.mp4": (mp4 + build([entry for entry in parse(mp4) if entry[0] == b"moov"]), ANY),
        "many_tracks.mp4": (many_tracks(mp4, 3000), ANY),
        # Each index is one that a file might have; all of them together are not.
        "samples_in_tracks.mp4": (many_tracks(long_tables(mp4, 4_000_000), 60), ANY),
        "fragment_samples_in_tracks.mp4": (many_fragments(fragments, 1_000_000, 400), ANY),
    }
    for count in [5_000_000, 80_000_000, 0xffffffff]:
        # Samples that no file of this length can hold; of one size, so that no table betrays them.
        made[f"samples_{count}.mp4"] = (long_tables(mp4, count), ANY)
        made[f"fragment_samples_{count}.mp4"] = (many_fragments(fragments, count, 1), ANY)
    for kind in [b"stts", b"ctts", b"stsc", b"stsz", b"stco", b"stss"]:
        at = 8 if kind == b"stsz" else 4
        for count in [0x0fffffff, 0xffffffff]:
            made[f"{kind.decode()}_{count}.mp4"] = (changed(mp4, kind, at, count), ANY)
    return made


def long_tables(data, count):
    """An MP4 whose tracks have `count` samples of a byte each."""
    tree = parse(data)
    for entry in find(tree, b"stsz"):
        entry[1] = struct.pack(">III", 0, 1, count)
    for entry in find(tree, b"stsc"):
        entry[1] = struct.pack(">IIIII", 0, 1, 1, count, 1)
    for entry in find(tree, b"stts"):
        entry[1] = struct.pack(">IIII", 0, 1, count, 1)
    return build(tree)


def many_fragments(data, count, times):
    """A fragmented MP4 whose fragments come `times` over, each with `count` samples of the usual size."""
    tree = parse(data)
    for entry in find(tree, b"trun"):
        set_u32(entry, 0, 0)
        set_u32(entry, 4, count)
        entry[1] = entry[1][:8]
    start = [entry for entry in tree if entry[0] in (b"ftyp", b"moov")]
    fragments = [entry for entry in tree if entry[0] in (b"moof", b"mdat")][:2]
    return build(start + (fragments * times if times > 1 else tree[len(start):]))


def with_size(data, side):
    """An MP4 that says in each of its headers that its picture is `side` pixels wide and high."""
    tree = parse(data)
    for entry in find(tree, b"tkhd"):
        set_u32(entry, 76, side << 16, side << 16)
    for entry in find(tree, b"stsd"):
        if entry[1][12:16] == b"avc1":
            contents = bytearray(entry[1])
            struct.pack_into(">HH", contents, 40, side, side)
            at = contents.index(b"avcC")
            sps = absurd_sps(side)
            old = struct.unpack_from(">H", contents, at + 10)[0]
            contents[at + 10:at + 12 + old] = struct.pack(">H", len(sps)) + sps
            grown = len(sps) - old
            for place in (8, at - 4):
                size = struct.unpack_from(">I", contents, place)[0]
                struct.pack_into(">I", contents, place, size + grown)
            entry[1] = bytes(contents)
    return build(tree)


def stretched(data, steps):
    """An MP4 whose samples last so many seconds each."""
    tree = parse(data)
    total = sum(count * seconds for count, seconds in steps)
    for entry in find(tree, b"mdhd"):
        set_u32(entry, 12, 1000, total * 1000)
    for entry in find(tree, b"stts"):
        entry[1] = struct.pack(">II", 0, len(steps))
        entry[1] += b"".join(struct.pack(">II", count, seconds * 1000) for count, seconds in steps)
    for entry in find(tree, b"mvhd"):
        set_u32(entry, 12, 1000, total * 1000)
    for entry in find(tree, b"tkhd"):
        set_u32(entry, 20, total * 1000)
    for entry in find(tree, b"trak"):
        entry[1] = [inner for inner in entry[1] if inner[0] != b"edts"]
    return build(tree)


def nested(depth):
    """Boxes within boxes."""
    data = b""
    for _ in range(depth):
        data = box(b"trak", data)
    return box(b"ftyp", b"isom\0\0\2\0") + box(b"moov", data)


def many_tracks(data, count):
    tree = parse(data)
    movie = next(find(tree, b"moov"))
    track = next(find(tree, b"trak"))
    movie[1] = movie[1] + [track] * count
    return build(tree)


def absurd_sps(side):
    """A sequence parameter set of H264, baseline profile, of `side` x `side` pixels (ITU-T H.264 §7.3.2.1.1)."""
    bits = "01100111" + f"{66:08b}" + "00000000" + f"{51:08b}"
    def golomb(value):
        digits = f"{value + 1:b}"
        return "0" * (len(digits) - 1) + digits
    blocks = (side + 15) // 16
    # Id, frame numbers of 4 bits, order by decoding, one reference, no gaps, size, frames only, no cropping.
    for value in [0, 0, 2, 1]:
        bits += golomb(value)
    bits += "0" + golomb(blocks - 1) + golomb(blocks - 1) + "1" + "1" + "0" + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    raw = bytes(int(bits[at:at + 8], 2) for at in range(0, len(bits), 8))
    return raw.replace(b"\0\0\1", b"\0\0\3\1").replace(b"\0\0\0", b"\0\0\3\0")


def element(identifier, data, size=None):
    """An EBML element (RFC 8794) that says it has `size` bytes, or as many as it has."""
    size = len(data) if size is None else size
    return bytes.fromhex(identifier) + ((1 << 56) | size).to_bytes(8, "big") + data


def matroskas(good):
    kind = element("4282", b"matroska")
    head = element("1A45DFA3", element("4286", b"\1") + kind + element("4287", b"\4") + element("4285", b"\2"))
    track = element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\1") + element("86", b"V_VP8")
    size = element("E0", element("B0", b"\x60") + element("BA", b"\x40"))
    huge = element("E0", element("B0", b"\xff\xff\xff") + element("BA", b"\xff\xff\xff"))
    tracks = element("1654AE6B", element("AE", track + size))
    block = b"\x81\0\0\x80" + bytes(64)
    gigabytes = 10 << 30
    def segment(*parts):
        return head + element("18538067", b"".join(parts))
    laced = b"\x81\0\0\x86\xff" + b"\xff" * 64
    deep = b""
    for _ in range(2000):
        deep = element("B6", deep)
    private = element("63A2", bytes(64), size=gigabytes)
    unknown = bytes.fromhex("1F43B675") + b"\1" + b"\xff" * 7
    return {
        "ten_gigabytes.mkv": (segment(tracks, element("1F43B675", element("A3", block, size=gigabytes))), ANY),
        "ten_gigabytes_cluster.mkv": (segment(tracks, element("1F43B675", element("A3", block), size=gigabytes)), ANY),
        "ten_gigabytes_private.mkv": (segment(element("1654AE6B", element("AE", track + size + private))), ANY),
        "ten_gigabytes_void.mkv": (segment(element("EC", bytes(16), size=gigabytes), tracks), ANY),
        "ten_gigabytes_segment.mkv": (head + element("18538067", tracks, size=gigabytes), ANY),
        "huge_size.mkv": (segment(element("1654AE6B", element("AE", track + huge)), element("1F43B675", element("A3", block))), ANY | LARGE),
        "laced.mkv": (segment(tracks, element("1F43B675", element("A3", laced) * 100)), ANY),
        "depth.mkv": (segment(tracks, element("1043A770", element("45B9", deep))), ANY),
        "clusters_unknown.mkv": (segment(tracks, unknown * 5000), ANY),
        "header_only.mkv": (head, BROKEN | AUDIO),
        "tracks_many.mkv": (segment(element("1654AE6B", element("AE", track + size) * 5000)), ANY),
        "twice.mkv": (good + good, MAYBE),
        "version_far.mkv": (element("1A45DFA3", element("42F7", b"\xff") + element("42F2", b"\x7f\xff\xff\xff\xff\xff\xff\xff")), BROKEN | AUDIO),
    }


def streams(good):
    noise = random.Random(7)
    packets = b"".join(b"\x47" + noise.randbytes(187) for _ in range(2000))
    null = b"".join(b"\x47\x1f\xff\x10" + bytes(184) for _ in range(2000))
    ts = good["good.ts"]
    shuffled = [ts[at:at + 188] for at in range(0, len(ts), 188)]
    noise.shuffle(shuffled)
    sps = b"\0\0\0\1" + absurd_sps(65_535)
    at = ts.index(b"\0\0\0\1\x67")
    absurd = bytearray(ts)
    absurd[at:at + len(sps)] = sps
    avi = good["good.avi"]
    frames = avi.index(b"avih") + 8
    wide = bytearray(avi)
    struct.pack_into("<II", wide, frames + 32, 0x7fffffff, 0x7fffffff)
    at = avi.index(b"strf") + 8
    struct.pack_into("<ii", wide, at + 4, 65_535, 65_535)
    index = bytearray(avi)
    at = avi.index(b"idx1") + 4
    struct.pack_into("<I", index, at, 0x7fffffff)
    lists = b"RIFF" + struct.pack("<I", 0xffffffff) + b"AVI " + (b"LIST" + struct.pack("<I", 0xffffffff) + b"hdrl") * 5000
    rate = bytearray(avi)
    at = avi.index(b"strh") + 8
    struct.pack_into("<II", rate, at + 20, 0, 0)
    return {
        "garbage.ts": (packets, ANY),
        "nothing_but_padding.ts": (null, BROKEN | AUDIO),
        "shuffled.ts": (b"".join(shuffled), ANY),
        "picture_huge.ts": (bytes(absurd), ANY | LARGE),
        "picture_huge.avi": (bytes(wide), ANY | LARGE),
        "index_huge.avi": (bytes(index), ANY),
        "lists_endless.avi": (lists, BROKEN | AUDIO),
        "rate_of_nothing.avi": (bytes(rate), ANY),
        "good_with_tail.mp4": (good["good.mp4"] + noise.randbytes(5000), {OK, "corrupt"}),
    }
