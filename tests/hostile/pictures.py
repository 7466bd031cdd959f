"""Pictures that say they are larger than they are, that inflate, and that point to themselves."""

import struct
import zlib

from codes import BROKEN, LARGE, MAYBE, OK, TYPE

SIDE = 65_535


def add(corpus, good):
    def picture(name, data, codes):
        corpus.add(name, data, codes, TYPE)

    for name, data in headers().items():
        picture(name, data, LARGE | BROKEN)
    for name, (data, codes) in png_bombs().items():
        picture(name, data, codes)
    for name, (data, codes) in gifs().items():
        picture(name, data, codes)
    for name, data in tiffs().items():
        picture(name, data, LARGE | BROKEN | (TYPE if name.startswith("big_") else set()))
    picture("exif_loop.jpg", exif_loop(good["good.jpg"]), MAYBE)
    picture("huge_segment.jpg", good["good.jpg"][:2] + b"\xff\xe1\xff\xff" + good["good.jpg"][2:200], BROKEN)
    picture("fill_bytes.jpg", b"\xff\xd8" + b"\xff" * 100_000, BROKEN)
    picture("many_scans.jpg", many_scans(good["good.jpg"]), MAYBE)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, *chunks):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header)]
    return b"".join(parts + [png_chunk(*chunk) for chunk in chunks] + [png_chunk(b"IEND", b"")])


def zeros(count):
    """Zero bytes, compressed without holding them."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & ((1 << 20) - 1))), packer.flush()])


def sof(width, height, rest):
    """A JPEG with this size in its header."""
    quantiser = b"\xff\xdb\0\x43\0" + bytes([16] * 64)
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + quantiser + b"\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + rest


def headers():
    huffman = b"\xff\xc4\0\x14\0" + b"\1" + bytes(15) + b"\0" + b"\xff\xc4\0\x14\x10" + b"\1" + bytes(15) + b"\0"
    scan = huffman + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + bytes(64) + b"\xff\xd9"
    screen = b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, SIDE, SIDE, 0) + b"\2\2\x4c\1\0;"
    def bmp(width, height, bits):
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54 + 64, 0, 0, 54) + info + bytes(64)
    def riff(*chunks):
        body = b"WEBP" + b"".join(kind + struct.pack("<I", len(data)) + data for kind, data in chunks)
        return b"RIFF" + struct.pack("<I", len(body)) + body
    largest = (1 << 24) - 1
    canvas = b"\x10\0\0\0" + largest.to_bytes(3, "little") * 2
    lossless = b"\x2f" + ((16383 | 16383 << 14).to_bytes(4, "little")) + bytes(32)
    lossy = b"\x30\1\0\x9d\1\x2a" + struct.pack("<HH", 16383, 16383) + bytes(64)
    return {
        "size_bomb.png": png(SIDE, SIDE, 8, 2, (b"IDAT", zlib.compress(b""))),
        "size_bomb_largest.png": png(0x7fffffff, 0x7fffffff, 16, 6, (b"IDAT", zlib.compress(b""))),
        "size_bomb.jpg": sof(SIDE, SIDE, scan),
        "size_none.jpg": sof(100, 0, scan),
        "size_bomb.gif": screen + frame,
        "size_bomb.bmp": bmp(SIDE, SIDE, 24),
        "size_bomb_largest.bmp": bmp(0x7fffffff, -0x7fffffff, 32),
        "size_bomb_row.bmp": bmp(0x7fffffff, 1, 1),
        "size_bomb_canvas.webp": riff((b"VP8X", canvas), (b"VP8L", lossless)),
        "size_bomb_lossless.webp": riff((b"VP8L", lossless)),
        "size_bomb_lossy.webp": riff((b"VP8 ", lossy)),
    }


def png_bombs():
    name = b"profile\0\0"
    one = (b"IDAT", zlib.compress(bytes(100 * 301)))
    bits = 30_000
    side = 8_000
    return {
        # A hundred kilobytes that are 900 million pixels.
        "pixels_bomb.png": (png(bits, bits, 1, 0, (b"IDAT", zeros(bits * (bits // 8 + 1)))), LARGE),
        # As many pixels as may be, with as many bits as there are.
        "deep_bomb.png": (png(side, side, 16, 6, (b"IDAT", zeros(1 << 20))), LARGE),
        # The largest that is taken: black all over.
        "largest.png": (png(side, side, 8, 0, (b"IDAT", zeros(side * (side + 1)))), {OK}),
        "data_bomb.png": (png(100, 100, 8, 2, (b"IDAT", zeros(256 << 20))), MAYBE),
        "profile_bomb.png": (png(100, 100, 8, 2, (b"iCCP", name + zeros(256 << 20)), one), MAYBE | LARGE),
        "text_bomb.png": (png(100, 100, 8, 2, (b"zTXt", name + zeros(256 << 20)), one), MAYBE | LARGE),
        "chunk_bomb.png": (png(100, 100, 8, 2)[:33] + b"\x7f\xff\xff\xffIDAT" + bytes(100), BROKEN),
        "palette_none.png": (png(100, 100, 8, 3, one), BROKEN),
    }


def gifs():
    side = 4096
    screen = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    dot = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    whole = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\2\2\x44\1\0"
    beside = b"," + struct.pack("<HHHHB", side - 1, side - 1, SIDE, SIDE, 0) + b"\2\2\x44\1\0"
    endless = b"!\xfe" + b"\xff" + b"x" * 255
    return {
        "frames_bomb.gif": (screen + dot * 20_000 + b";", MAYBE),
        "frames_bomb_whole.gif": (screen + whole * 20_000 + b";", MAYBE),
        "beside.gif": (screen + beside + b";", MAYBE | LARGE),
        "no_frames.gif": (screen + b";", BROKEN),
        "comment_without_end.gif": (screen + endless * 4000, BROKEN),
    }


SHORT, LONG = 3, 4


def tiff(entries, following=0, tail=b""):
    """A little-endian TIFF of one directory; entries are (tag, type, count, value or offset)."""
    parts = [b"II*\0", struct.pack("<I", 8), struct.pack("<H", len(entries))]
    for tag, kind, count, value in entries:
        parts.append(struct.pack("<HHII", tag, kind, count, value))
    return b"".join([*parts, struct.pack("<I", following), tail])


def tiffs():
    def of(width, height, bits=8, compression=1, photometric=1, offset=200, rows=None, count=64, samples=1):
        return [
            (256, LONG, 1, width), (257, LONG, 1, height), (258, SHORT, 1, bits), (259, SHORT, 1, compression),
            (262, SHORT, 1, photometric), (273, LONG, 1, offset), (277, SHORT, 1, samples),
            (278, LONG, 1, height if rows is None else rows), (279, LONG, 1, count),
        ]
    tail = bytes(400)
    small = of(100, 100)
    tiles = [entry for entry in small if entry[0] not in (273, 278, 279)]
    tiles += [(322, LONG, 1, 0xfffffff0), (323, LONG, 1, 0xfffffff0), (324, LONG, 1, 200), (325, LONG, 1, 64)]
    deflated = zeros(64 << 20)
    big = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 0xffffffffffff) + bytes(64)
    return {
        "size_bomb.tiff": tiff(of(SIDE, SIDE), tail=tail),
        "size_bomb_largest.tiff": tiff(of(0xffffffff, 0xffffffff), tail=tail),
        "deep_bomb.tiff": tiff(of(7_900, 7_900, bits=64), tail=tail),
        "loop.tiff": tiff(small[:2], following=8, tail=tail),
        "strip_far.tiff": tiff(of(100, 100, offset=0xfffffff0), tail=tail),
        "strip_long.tiff": tiff(of(100, 100, count=0xffffffff), tail=tail),
        "strips_many.tiff": tiff([*small[:5], (273, LONG, 0xffffffff, 200), *small[6:]], tail=tail),
        "rows_none.tiff": tiff(of(100, 100, rows=0), tail=tail),
        "samples_many.tiff": tiff(of(100, 100, samples=SIDE), tail=tail),
        "bits_none.tiff": tiff(of(100, 100, bits=0), tail=tail),
        "tiles_huge.tiff": tiff(tiles, tail=tail),
        "inflates.tiff": tiff(of(100, 7, compression=8, rows=100, count=len(deflated), offset=126), tail=deflated)[:70_000],
        "directory_itself.tiff": b"II*\0\0\0\0\0",
        "directory_far.tiff": b"II*\0\xff\xff\xff\xff",
        "big_directory.tiff": big,
    }


def exif_loop(jpeg):
    """A JPEG whose EXIF directory follows itself, with an entry of four thousand million values."""
    directory = struct.pack("<HHHIIHHIII", 2, 0x0112, SHORT, 0xffffffff, 8, 0x8769, LONG, 1, 8, 8)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def many_scans(jpeg):
    """The same scan two thousand times over."""
    start = jpeg.index(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * 2000 + b"\xff\xd9"
