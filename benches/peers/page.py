"""The page of `benches/peers/run`: plots as inline SVG and the table, in one file without scripts."""

import html
import math

COLOURS = {"vigie": "#0072b2", "aiortc": "#d55e00", "aiortc-executor": "#009e73", "webrtcbin": "#cc79a7"}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 250, 54, 34, 26, 12

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b1b1b; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.plots { display: flex; flex-wrap: wrap; gap: 1rem } svg { background: #fafafa; border: 1px solid #ddd }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px } .wide { overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .5rem; text-align: right } th:first-child, td:first-child { text-align: left }
text { font: 11px system-ui, sans-serif; fill: #333 } .title { font-size: 12px; font-weight: 600 }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #e8e8e8 } svg { background: #202020; border-color: #444 }
  text { fill: #ddd } th, td { border-color: #444 } }
"""


def ticks(most, logarithmic, least=1.0):
    if logarithmic:
        return [10**power for power in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)]
    step = 10 ** math.floor(math.log10(most / 2)) if most > 0 else 1
    step *= next(factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 6)
    return [step * index for index in range(int(most / step) + 2)]


def plot(title, lines, labels, x_name, logarithmic=False, marks=()):
    """`lines`: name → [(x, y)]; `labels`: the x values, evenly spaced when given."""
    values = [y for points in lines.values() for _, y in points if y and y > 0] + [value for _, value in marks]
    if not values:
        return ""
    scale = ticks(max(values), logarithmic, min(values))
    low, high = scale[0], scale[-1]
    xs = labels or sorted({x for points in lines.values() for x, _ in points})
    place = {x: LEFT + (WIDTH - LEFT - RIGHT) * (index + 0.5) / len(xs) for index, x in enumerate(xs)}

    def up(value):
        value = max(value, low if logarithmic else 0)
        share = (math.log10(value / low) / math.log10(high / low)) if logarithmic else value / high
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share

    parts = [f'<text class="title" x="{LEFT}" y="16">{html.escape(title)}</text>']
    for tick in scale:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="#8884"/>'
                     f'<text x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    every = max(1, len(xs) // 10)
    for x in xs[::every]:
        parts.append(f'<text x="{place[x]:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(x_name)}</text>')
    for name, value in marks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}" stroke="#888" '
                     f'stroke-dasharray="4 3"/><text x="{WIDTH - RIGHT - 4}" y="{up(value) - 4:.1f}" text-anchor="end">'
                     f'{html.escape(name)}</text>')
    for name, points in lines.items():
        path = " ".join(f"{place[x]:.1f},{up(y):.1f}" for x, y in points if y is not None and x in place)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{point.split(",")[0]}" cy="{point.split(",")[1]}" r="2.5" fill="{COLOURS[name]}"/>'
                  for point in path.split()]
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
            f'aria-label="{html.escape(title)}">{"".join(parts)}</svg>')


def render(result, servers):
    rows = [row for row in result["rows"] if row["tasks"] != "none"]
    held = [row for row in result["rows"] if row["tasks"] == "none"]
    names = [name for name in servers if any(row["server"] == name for row in result["rows"])]
    counts = sorted({row["sessions"] for row in rows})
    limit = {entry["name"]: entry for entry in result["limits"]["limits"]}

    def of(column):
        return {name: [(row["sessions"], row.get(column)) for row in rows if row["server"] == name] for name in names}

    plots = [
        plot("Recognised frames a second, all sessions", of("recognised_fps_total"), counts, "sessions",
             marks=[("bare models, both cores", limit["faces, objects and gender"]["per_second"])]),
        plot("Annotated frames a second and session", of("annotated_fps"), counts, "sessions", marks=[("sent", 30)]),
        plot("Sender to report, ms, p50", of("report_p50_ms"), counts, "sessions", logarithmic=True),
        plot("Sender to report, ms, p99", of("report_p99_ms"), counts, "sessions", logarithmic=True),
        plot("Glass to glass, by a number in the picture, ms, p50", of("glass_p50_ms"), counts, "sessions", logarithmic=True),
        plot("Glass to glass, ms, p99", of("glass_p99_ms"), counts, "sessions", logarithmic=True),
        plot("CPU of the server a recognised frame, ms", of("cpu_ms_per_recognised"), counts, "sessions", logarithmic=True),
        plot("CPU of the server an annotated frame, ms", of("cpu_ms_per_annotated"), counts, "sessions", logarithmic=True),
        plot("Memory of the server, MiB", of("memory_mib"), counts, "sessions"),
    ]
    for count in [count for count in counts if count in (1, 4)]:
        lines = {row["server"]: list(enumerate(row.get("latency", []))) for row in rows if row["sessions"] == count}
        plots.append(plot(f"Sender to report over the run, ms, {count} session{'s' * (count > 1)}", lines, None,
                          "seconds", logarithmic=True))
    if held:
        def held_of(column):
            return {name: [(row["sessions"], row.get(column)) for row in held if row["server"] == name] for name in servers}

        numbers = sorted({row["sessions"] for row in held})
        plots.append(plot("Annotated frames a second and session, no recognition", held_of("annotated_fps"), numbers, "sessions",
                          marks=[("29 fps", 29)]))
        plots.append(plot("CPU of the server an annotated frame, no recognition, ms", held_of("cpu_ms_per_annotated"), numbers, "sessions",
                          logarithmic=True))
    machine = result["limits"]["machine"]
    legend = " · ".join(f'<b style="color:{COLOURS[name]}">{html.escape(servers[name])}</b>' for name in names)
    columns = [key for key in max(result["rows"], key=len) if key != "latency"]
    cell = lambda value: "" if value is None else html.escape(str(value))
    body = "".join(
        "<tr>" + "".join(f"<td>{cell(row.get(column))}</td>" for column in columns) + "</tr>" for row in result["rows"])
    bounds = "".join(f"<tr><td>{html.escape(entry['name'])}</td><td>{entry['per_second']:.1f}</td>"
                     f"<td>{entry['cpu_ms_each']:.2f}</td></tr>" for entry in result["limits"]["limits"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>vigie and its peers</title>
<style>{STYLE}</style></head><body>
<h1>vigie and its peers</h1>
<p>{result['date']} · {machine['cores']} cores of {html.escape(machine['processor'])}, Linux {html.escape(machine['kernel'])}, load before
{machine['load_before']} · vigie {machine['vigie']} · {html.escape(result['versions'])}</p>
<p>{legend}. Each session sends the same clip, 640x480 at 30 frames a second, and wants faces, apparent gender, objects and the annotated
track. The synthetic browsers stand on the same cores. Each point is a run of {result['seconds']} s after 3 s of warming up, without
recognition {result['video_seconds']} s; the other services and vigie were measured in turn, number by number.</p>
<div class="plots">{''.join(plots)}</div>
<h2>The limits, in bare loops on both cores</h2>
<table><tr><th></th><th>a second</th><th>ms of CPU each</th></tr>{bounds}</table>
<h2>All figures</h2>
<div class="wide"><table><tr>{''.join(f'<th>{column}</th>' for column in columns)}</tr>{body}</table></div>
</body></html>
"""
