"""The codes of the service's error answers, and the sets that kinds of files may be answered with."""

OK = "ok"
EMPTY = {"empty"}
TYPE = {"unsupported_type"}
LARGE = {"too_large"}
AUDIO = {"no_video"}
# A file that is broken: what is there may be enough.
BROKEN = {"corrupt", "truncated"}
MAYBE = BROKEN | {OK}
# Damage may hit the very bytes that tell what a file is, its size or its streams.
DAMAGED = MAYBE | TYPE | LARGE | AUDIO | EMPTY | {"unsupported_codec"}
