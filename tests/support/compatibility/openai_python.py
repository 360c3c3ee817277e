"""Every call of the published openai client that this gateway serves."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable

import openai
from PIL import Image

from support.compatibility.calls import main

MODEL = sys.argv[1]
client = openai.OpenAI()
PROMPT = "a red circle"


def is_picture(encoded: str | None) -> bool:
    return bool(Image.open(io.BytesIO(base64.b64decode(encoded or ""))).size)


def generate() -> bool:
    made = client.images.generate(model=MODEL, prompt=PROMPT, n=2, extra_body={"seed": 7})
    return len(made.data or []) == 2 and is_picture((made.data or [])[0].b64_json)


async def generate_async() -> bool:
    async with openai.AsyncOpenAI() as concurrent:
        made = await concurrent.images.generate(model=MODEL, prompt=PROMPT)
    return is_picture((made.data or [])[0].b64_json)


def generate_url() -> bool:
    made = client.images.generate(model=MODEL, prompt=PROMPT, response_format="url")
    return bool((made.data or [])[0].url)


def generate_stream() -> bool:
    stream = client.images.generate(model=MODEL, prompt=PROMPT, stream=True, partial_images=2)
    events = list(stream)
    partial = [each for each in events if each.type == "image_generation.partial_image"]
    return len(partial) == 2 and is_picture(events[-1].b64_json)


def a_png(mode: str = "RGB") -> bytes:
    """With `RGBA` its right half is transparent."""
    picture = Image.new(mode, (64, 64), "red")
    if mode == "RGBA":
        picture.paste((0, 0, 0, 0), (32, 0, 64, 64))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def edit() -> bool:
    made = client.images.edit(model=MODEL, prompt=PROMPT, image=a_png())
    return is_picture((made.data or [])[0].b64_json)


def edit_list() -> bool:
    made = client.images.edit(model=MODEL, prompt=PROMPT, image=[a_png()])
    return is_picture((made.data or [])[0].b64_json)


def edit_masked() -> bool:
    made = client.images.edit(model=MODEL, prompt=PROMPT, image=a_png(), mask=a_png("RGBA"))
    return is_picture((made.data or [])[0].b64_json)


def edit_stream() -> bool:
    stream = client.images.edit(
        model=MODEL, prompt=PROMPT, image=a_png(), stream=True, partial_images=1
    )
    kinds = [event.type for event in stream]
    return kinds[-1] == "image_edit.completed"


def vary() -> bool:
    made = client.images.create_variation(model=MODEL, image=a_png(), n=2)
    return len(made.data or []) == 2 and bool((made.data or [])[1].url)


def models() -> bool:
    return MODEL in [each.id for each in client.models.list()]


def errors() -> bool:
    try:
        client.images.generate(model=MODEL, prompt=PROMPT, n=99)
    except openai.BadRequestError as error:
        return error.param == "n"
    return False


CALLS: dict[str, Callable[[], object]] = {
    "images.generate": generate,
    "images.generate, asynchronous": generate_async,
    "images.generate, response_format=url": generate_url,
    "images.generate, stream and partial_images": generate_stream,
    "images.edit": edit,
    "images.edit, a list": edit_list,
    "images.edit, mask": edit_masked,
    "images.edit, stream and partial_images": edit_stream,
    "images.create_variation": vary,
    "models.list": models,
    "models.retrieve": lambda: client.models.retrieve(MODEL).id == MODEL,
    "an error": errors,
}

if __name__ == "__main__":
    main(CALLS)
