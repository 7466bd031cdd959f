"""Files that are something else than they are called, and files that name others to be opened."""

import io
import struct
import zipfile

from boxes import box, build, find, full_box, parse
from codes import AUDIO, BROKEN, MAYBE, TYPE

NAMES = ["mp4", "mov", "m4v", "mkv", "webm", "avi", "ts", "m2ts", "jpg", "png", "gif", "webp", "bmp", "tiff"]


def add(corpus, good, bait_url, bait_file):
    wrong_types(corpus)
    targets = {"url": bait_url, "file": f"file://{bait_file}", "path": str(bait_file), "relative": bait_file.name}
    for label, target in targets.items():
        for name, text in texts(target).items():
            stem, extension = name.split(".")
            corpus.add(f"{stem}-{label}.{extension}", text.encode(), TYPE, TYPE)
        disguises(corpus, good, label, target)


def wrong_types(corpus):
    for name in NAMES:
        corpus.add(f"a-text.{name}", b"Hello, world. This is a text, whatever its name says.\n", TYPE, TYPE)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as inside:
        inside.writestr(zipfile.ZipInfo("zeros"), bytes(10_000_000), zipfile.ZIP_DEFLATED)
    others = {
        "program.mp4": b"\x7fELF\x02\x01\x01" + bytes(57),
        "script.jpg": b"#!/bin/sh\nexit 1\n",
        "page.webm": b"<!doctype html><script>alert(1)</script>",
        "archive.mp4": archive.getvalue(),
        "archive.png": archive.getvalue(),
        "document.jpg": b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/URI/URI(http://127.0.0.1:9/)>>>>endobj\n",
        "postscript.png": b"%!PS-Adobe-3.0\n(/etc/passwd) (r) file\n",
        "icon.bmp": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\0\0\0\0\x16\0\0\0",
        "zeros.mp4": bytes(4096),
        "spaces.mp4": b" " * 4096,
    }
    for name, data in others.items():
        corpus.add(name, data, TYPE, TYPE)


def texts(target):
    """Lists and pages that name `target`, under their own names and disguised ones."""
    hls = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n"
    key = (f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-KEY:METHOD=AES-128,URI=\"{target}\"\n"
           f"#EXTINF:2,\nconcat:{target}|{target}\n#EXT-X-ENDLIST\n")
    concat = f"ffconcat version 1.0\nfile {target}\n"
    svg = ('<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
           f'<image xlink:href="{target}" width="9" height="9"/></svg>')
    dash = ('<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4"><Representation '
            f'id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>')
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    return {
        "hls.m3u8": hls,
        "hls.mp4": hls,
        "hls.avi": hls,
        "hls.jpg": hls,
        "hls_key.mkv": key,
        "hls_bom.mp4": "\ufeff" + hls,
        "hls_late.mp4": "\n" * 1000 + hls,
        "concat.ffconcat": concat,
        "concat.mp4": concat,
        "concat_bare.mov": f"file '{target}'\n",
        "dash.mpd": dash,
        "dash.mp4": dash,
        "smil.mp4": f'<smil><body><video src="{target}"/></body></smil>',
        "sdp.mp4": sdp,
        "rtsp.mov": f"RTSPtext{target}\n",
        "list.pls": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
        "list.asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        "svg.svg": svg,
        "svg.png": svg,
        "magick.png": f"push graphic-context\nimage over 0,0 9,9 '{target}'\npop graphic-context\n",
        "vobsub.avi": f"# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 0\n{target}\n",
    }


def disguises(corpus, good, label, target):
    """Playlists and references inside of files that begin like what is read."""
    hls = f"#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n".encode()
    starts = {
        "ftyp.mp4": box(b"ftyp", b"isom\0\0\2\0isom"),
        "ebml.mkv": b"\x1a\x45\xdf\xa3\x80",
        "riff.avi": b"RIFF" + struct.pack("<I", len(hls) + 4) + b"AVI ",
    }
    for name, start in starts.items():
        stem, extension = name.split(".")
        corpus.add(f"hls_in_{stem}-{label}.{extension}", start + hls, TYPE, BROKEN | {"no_video"})
    corpus.add(f"hls_in_gif-{label}.gif", b"GIF89a" + hls, BROKEN | {"too_large"}, TYPE)
    packets = b"".join(b"\x47" + hls[:187].ljust(187, b"\n") for _ in range(20))
    corpus.add(f"hls_in_ts-{label}.ts", packets, TYPE, BROKEN | {"no_video"})
    corpus.add(f"gab2-{label}.avi", gab2(good["good.jpg"], hls), TYPE, MAYBE)
    # A QuickTime movie that says where the real one lies, and movies whose samples lie elsewhere.
    reference = full_box(b"rdrf", b"url " + struct.pack(">I", len(target) + 1) + target.encode() + b"\0")
    movie = box(b"moov", box(b"rmra", box(b"rmda", reference)))
    corpus.add(f"reference_movie-{label}.mov", box(b"ftyp", b"qt  \0\0\0\0qt  ") + movie, TYPE, BROKEN | AUDIO)
    for kind in [b"url ", b"alis"]:
        tree = parse(good["good.mov"])
        entry = location(kind, target)
        for dref in find(tree, b"dref"):
            dref[1] = struct.pack(">II", 0, 1) + entry
        stem = "dref_" + kind.decode().strip()
        corpus.add(f"{stem}-{label}.mov", build(tree), TYPE, MAYBE)


def location(kind, target):
    """A data reference that is not in the file itself."""
    if kind == b"url ":
        return full_box(kind, target.encode() + b"\0")
    # An alias record, as QTFF has it, with an absolute path (tag 18) and levels up and down.
    path = target.removeprefix("file://").encode()
    record = struct.pack(">IHHH", 0, 150, 2, 0)
    record += b"\4disk".ljust(28, b"\0") + bytes(4) + b"H+" + bytes(2) + bytes(4)
    record += b"\4bait".ljust(64, b"\0") + bytes(4 + 4 + 4 + 4) + struct.pack(">hh", 1, 1) + bytes(4 + 2 + 10)
    for tag, data in [(2, path.replace(b"/", b":")), (18, path), (19, b"/")]:
        record += struct.pack(">HH", tag, len(data)) + data + b"\0" * (len(data) % 2)
    return full_box(kind, record + struct.pack(">H", 0xffff))


def chunk(kind, data):
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def gab2(jpeg, inner):
    """An AVI of Motion JPEG whose subtitle packet carries `inner` as a file of its own (as CVE-2016-1897 did)."""
    avih = struct.pack("<14I", 100_000, 0, 0, 0x10, 4, 0, 2, 0, 96, 64, 0, 0, 0, 0)
    video = struct.pack("<4s4s3I8I4H", b"vids", b"MJPG", 0, 0, 0, 1, 10, 0, 4, 0, 0, 0, 0, 0, 0, 96, 64)
    format_ = struct.pack("<IiiHH4sIiiII", 40, 96, 64, 1, 24, b"MJPG", 0, 0, 0, 0, 0)
    text = struct.pack("<4s4s3I8I4H", b"txts", b"\0\0\0\0", 0, 0, 0, 1, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    streams = b"LIST" + struct.pack("<I", 0)
    def stream(header, format_):
        data = b"strl" + chunk(b"strh", header) + chunk(b"strf", format_)
        return chunk(b"LIST", data)
    streams = stream(video, format_) + stream(text, b"")
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", avih) + streams)
    subtitle = b"GAB2\0" + struct.pack("<HIHH", 2, 2, 0, 4) + struct.pack("<I", len(inner)) + inner
    movie = chunk(b"01tx", subtitle) + b"".join(chunk(b"00dc", jpeg) for _ in range(4))
    body = b"AVI " + header + chunk(b"LIST", b"movi" + movie)
    return b"RIFF" + struct.pack("<I", len(body)) + body
