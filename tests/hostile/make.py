#!/usr/bin/env python3
"""Makes the corpus of hostile files: `make.py FOLDER [--bait-url URL] [--bait-file PATH]`.

Standard library and the ffmpeg program only. The same arguments give the same files, except where another
build of ffmpeg encodes the seeds otherwise. Beside the files lies `manifest.json`:

    [{"name": ..., "picture": [codes], "video": [codes]}, ...]

For each file, the codes that may come back when it is sent as a picture and as a video; "ok" where it may
succeed. The baits are what playlists and references point to: whoever opens one has been tricked.
"""

import argparse
import json
import pathlib

import containers
import damage
import pictures
import playlists
import seeds


class Corpus:
    """The files so far, and what may be answered to them."""

    def __init__(self, folder):
        self.folder = folder
        self.entries = []

    def add(self, name, data, picture, video):
        if any(entry["name"] == name for entry in self.entries):
            raise ValueError(f"{name} is there already")
        (self.folder / name).write_bytes(data)
        self.entries.append({"name": name, "picture": sorted(picture), "video": sorted(video)})

    def write_manifest(self):
        text = json.dumps(self.entries, indent=1)
        (self.folder / "manifest.json").write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--bait-url", default="http://127.0.0.1:9/bait.ts")
    parser.add_argument("--bait-file", type=pathlib.Path, default=pathlib.Path("/nonexistent/bait.ts"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    good = seeds.make()
    corpus = Corpus(arguments.folder)
    playlists.add(corpus, good, arguments.bait_url, arguments.bait_file)
    pictures.add(corpus, good)
    containers.add(corpus, good)
    damage.add(corpus, good)
    corpus.write_manifest()
    print(f"{len(corpus.entries)} files in {arguments.folder}")


if __name__ == "__main__":
    main()
