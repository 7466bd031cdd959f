"""Small good files of every kind that is read: what the hostile ones are made from."""

import pathlib
import subprocess
import tempfile

EXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-threads", "1"]
X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]

# Name -> the arguments that write it, from a moving test picture and a tone.
VIDEOS = {
    "good.mp4": [*X264, "-bf", "2", "-c:a", "aac"],
    "good-fragments.mp4": [*X264, "-an", "-movflags", "frag_keyframe+empty_moov", "-g", "4"],
    "good.mov": [*X264, "-c:a", "pcm_s16le"],
    "good.mkv": [*X264, "-c:a", "libvorbis"],
    "good.webm": ["-c:v", "libvpx", "-b:v", "200k", "-an"],
    "good.avi": ["-c:v", "mpeg4", "-c:a", "libmp3lame"],
    "good.ts": [*X264, "-c:a", "aac"],
}
SOUNDS = {
    "sound.m4a": ["-c:a", "aac"],
    "sound.mka": ["-c:a", "libvorbis"],
    "sound.avi": ["-c:a", "pcm_s16le"],
    "sound.ts": ["-c:a", "aac"],
    "sound.wav": ["-c:a", "pcm_s16le"],
    "sound.mp3": ["-c:a", "libmp3lame"],
}
PICTURES = {
    "good.jpg": ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"],
    "good.png": ["-c:v", "png", "-pix_fmt", "rgb24"],
    "good.gif": [],
    "good.bmp": ["-pix_fmt", "bgr24"],
    "good.tiff": ["-pix_fmt", "rgb24", "-compression_algo", "lzw"],
    "good.webp": ["-c:v", "libwebp"],
    "good.avif": ["-c:v", "libaom-av1", "-still-picture", "1", "-cpu-used", "8", "-pix_fmt", "yuv420p"],
}


def ffmpeg(arguments):
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *arguments]
    subprocess.run(command, check=True)


def make(size="96x64", seconds=1.2, sampling=44100):
    """Name -> bytes of every seed."""
    moving = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=10"]
    tone = ["-f", "lavfi", "-i", f"sine=440:sample_rate={sampling}"]
    good = {}
    with tempfile.TemporaryDirectory() as folder:
        def write(name, inputs, arguments):
            path = pathlib.Path(folder) / name
            ffmpeg([*inputs, *arguments, *EXACT, str(path)])
            good[name] = path.read_bytes()

        for name, arguments in VIDEOS.items():
            write(name, [*moving, *tone, "-t", str(seconds)], arguments)
        for name, arguments in SOUNDS.items():
            write(name, [*tone, "-t", str(min(seconds, 1))], arguments)
        for name, arguments in PICTURES.items():
            write(name, [*moving, "-frames:v", "1"], arguments)
        write("one-frame.mp4", [*moving, "-frames:v", "1"], [*X264, "-an"])
        write("two-frames.mp4", [*moving, "-frames:v", "2"], [*X264, "-bf", "0", "-an"])
    return good
