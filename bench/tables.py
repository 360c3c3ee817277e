"""Results as tables of the pages that tell them, so that no page has numbers of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
Rows = list[list[str]]

_MARKED = re.compile(
    r"(?P<begin><!-- (?P<name>[a-z_]+)\.json(?: (?P<part>[a-z]+))?: begin -->\n).*?"
    r"(?P<end><!-- (?P=name)\.json(?: (?P=part))?: end -->)",
    re.DOTALL,
)


def refreshed(text: str, result_of: Callable[[str], Result | None]) -> str:
    """`text` with new tables between its marks, `<!-- NAME.json PART: begin -->` and `end`.

    `result_of` is asked for NAME; where it has none, what is there stays. Raises `ValueError` for
    marks that no table is made for.
    """

    def table(mark: re.Match[str]) -> str:
        name, part = mark["name"], mark["part"] or ""
        if (make := TABLES.get((name, part))) is None:
            raise ValueError(f"there is no table {part!r} of {name}.json")
        if (result := result_of(name)) is None:
            return mark[0]
        return f"{mark['begin']}{_caption(name, result)}\n\n{_table(make(result))}\n{mark['end']}"

    return _MARKED.sub(table, text)


def _caption(name: str, result: Result) -> str:
    gpu = result.get("parameters", {}).get("gpu")
    return (
        f"`bench/results/{name}.json`, {f'{gpu}, ' if gpu else ''}{result['cores']} cores of "
        f"{result['cpu']}, load average "
        f"{result['load_average']:g}:"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([head, f"| {' | '.join('---' for _ in rows[0])} |", *body])


def weights(result: Result) -> Rows:
    rows = [
        [
            *("", "size", "cold load", "CPU time of a picture"),
            *("error of the denoiser's answer, largest / mean", "of the picture"),
        ]
    ]
    for model, found in result["results"].items():
        for name, line in found["weights"].items():
            original = name == "original"
            answer, picture = line["denoiser_error"], line["picture_error"]
            rows.append(
                [
                    model if original else f"{model}, {name}",
                    f"{line['megabytes']:.1f} MB",
                    f"{line['cold_load_seconds']['median'] * 1e3:.0f} ms",
                    f"{line['picture_cpu_seconds']['median']:.2f} s",
                    "" if original else f"{answer['max']:.1%} / {answer['mean']:.2%}",
                    "" if original else f"{picture['max']:.3f} / {picture['mean']:.4f}",
                ]
            )
    return rows


def code(result: Result) -> Rows:
    heads = ("CPU time of the first picture in a new process", "of a later one")
    rows = [["", *heads, "pictures differ by"]]
    for model, found in result["results"].items():
        for name, line in found["code"].items():
            if name == "compile_ahead":
                continue
            error = line["picture_error"]
            rows.append(
                [
                    f"{model}, {name}",
                    f"{line['first_picture_cpu_seconds']:.1f} s",
                    f"{line['later_cpu_seconds']['median']:.2f} s",
                    "" if name == "eager" else f"{error['max']:.2g} / {error['mean']:.1g}",
                ]
            )
    return rows


def remote(result: Result) -> Rows:
    rows = [["", "GB/s", "CPU-seconds a GB"]]
    for name, line in result["results"].items():
        speed, cpu = line["gb_per_second"], line["cpu_seconds_per_gb"]
        rows.append([name, f"{speed:.2f}", f"{cpu:.2f}"])
    return rows


def cold_start(result: Result) -> Rows:
    rows = [["", "from", "seconds", "GB/s", "of floor", "times as long as Quickthaw"]]
    for line in result["results"]["rows"].values():
        share, times = line.get("share_of_floor"), line.get("times_quickthaw")
        rows.append(
            [
                line["title"],
                line["start"].replace("-", " "),
                f"{line['seconds']['p50']:.3f}",
                f"{line['gigabytes_per_second']:.2f}",
                f"{share['p50']:.2f}" if share else "",
                f"{times['p50']:.2f}" if times else "",
            ]
        )
    return rows


def caches(result: Result) -> Rows:
    heads = ("importing", "reading in", "first", "of which C++ compiler", "later")
    rows = [["CPU-seconds, tiny models", *heads]]
    for model, found in result["results"].items():
        plain = f"{found['compiled']['uncompiled_seconds']:.2f}"
        rows.append([f"{model}, uncompiled", "", "", plain, "", plain])
        for how, line in found.items():
            whole = {name: _with_children(line, name) for name in ("import", "bring", "first")}
            compiler = line["first_children_seconds"]
            seconds = (*whole.values(), compiler or None, line["later_seconds"])
            cells = ("" if each is None else f"{each:.2f}" for each in seconds)
            rows.append([f"{model}, {_CACHES[how]}", *cells])
    return rows


_CACHES = {
    "compiled": "torch.compile",
    "brought": "torch.compile, its artifacts brought",
    "kept": "torch.compile, its whole folder kept",
    "traced": "torch.compile, traced ahead, its whole folder kept",
    "ahead": "compiled ahead by AOTInductor",
}


def _with_children(line: Mapping[str, float], name: str) -> float | None:
    own = line.get(f"{name}_seconds")
    return None if own is None else own + line[f"{name}_children_seconds"]


def families(result: Result) -> Rows:
    heads = ("calls that ran compiled", "codes", "of every size", "what is made differs by")
    rows = [["", *heads]]
    for name, line in result["results"].items():
        made = f"{line['codes_made']} of {line['codes_wanted']}"
        calls = f"{line['compiled_calls']} of {line['calls']}"
        difference = f"{line['difference']:.1g}"
        open_sizes = str(line["codes_of_every_size"])
        rows.append([f"{name}, {line['class']}", calls, made, open_sizes, difference])
    return rows


TABLES: Mapping[tuple[str, str], Callable[[Result], Rows]] = {
    ("options", "weights"): weights,
    ("options", "code"): code,
    ("options_families", ""): families,
    ("options_caches", ""): caches,
    ("remote", ""): remote,
    ("cold_start_gpu", ""): cold_start,
    ("cold_start_gpu_sdxl", ""): cold_start,
    ("cold_start_gpu_sdxl_peers", ""): cold_start,
    ("cold_start_gpu_flux", ""): cold_start,
}
