"""Money, spans and pictures as a person reads them."""

import io

import pytest
from PIL import Image
from rich.console import Console

from quickthaw.cli import render
from quickthaw.cli.preview import half_blocks
from quickthaw.cli.running import file_stem
from support.answers import PICTURE


@pytest.mark.parametrize(
    ("nanodollars", "text"),
    [
        (0, "$0.00"),
        (24_680, "$0.00002468"),
        (1, "$0.000000001"),
        (2_500_000_000, "$2.50"),
        (1_234_000_000_000, "$1,234.00"),
        (-5_000_000, "-$0.005"),
    ],
)
def test_money_is_exact(nanodollars: int, text: str) -> None:
    assert render.money(nanodollars) == text


def test_spans_and_sizes_use_the_unit_that_fits() -> None:
    assert [render.span(ms) for ms in (0, 999, 1234, 300_000)] == [
        "0 ms",
        "999 ms",
        "1.23 s",
        "5 min 0 s",
    ]
    assert [render.size(n) for n in (5, 2048, 3 << 20, 5 << 30)] == [
        "5 B",
        "2.0 KiB",
        "3.0 MiB",
        "5.00 GiB",
    ]


def test_a_preview_becomes_two_pixels_a_character() -> None:
    picture = io.BytesIO()
    image = Image.new("RGB", (2, 2), (255, 0, 0))
    image.putpixel((0, 1), (0, 0, 255))
    image.putpixel((1, 1), (0, 0, 255))
    image.save(picture, "PNG")
    text = half_blocks(picture.getvalue(), columns=2)
    assert text is not None
    assert text.plain == "▀▀\n"
    style = text.spans[0].style
    assert "#ff0000 on #0000ff" in str(style)


def test_what_is_no_picture_has_no_preview() -> None:
    assert half_blocks(b"nothing") is None
    assert half_blocks(PICTURE[:20]) is None


def test_files_are_named_after_model_and_request() -> None:
    assert file_stem("quickthaw/shapes", "req_0123456789abcdef") == "shapes-89abcdef"
    assert file_stem("../..", "..") == "output-"


def test_a_narrow_terminal_breaks_no_id_and_folds_no_column_to_letters() -> None:
    told = io.StringIO()
    request_id = "req_01m82j4t8z3s64q9wd8yec"
    row = (request_id, "quickthaw/shapes", "succeeded", "2026-11-22 21:21:10", "$0.00004376")
    headings = ("request", "model", "state", "submitted", "price")
    console = Console(file=told, width=40)
    render.listing(console, render.table(headings, [row], "price"), "none")
    (line,) = [line for line in told.getvalue().splitlines() if request_id in line]
    assert "quickthaw/" in line
    assert "$0.00004376" in line


def test_a_colour_makes_no_column_wider() -> None:
    def shown(cell: str) -> str:
        console = Console(width=80, color_system=None)
        with console.capture() as capture:
            console.print(render.table(("state", "worker"), [(cell, "w")]))
        return capture.get()

    assert shown("[green]ready[/green]") == shown("ready")
