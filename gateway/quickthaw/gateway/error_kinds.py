"""What the `type` of an error's item means: for people, at the address that the item names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ERROR_KINDS: Final[Mapping[str, str]] = {
    "missing": "The field is required and is not there.",
    "string_type": "The value must be a text.",
    "int_type": "The value must be a whole number.",
    "float_type": "The value must be a number.",
    "bool_type": "The value must be true or false.",
    "list_type": "The value must be a list.",
    "dict_type": "The value must be an object.",
    "none_required": "The value must be null.",
    "greater_than": "The number must be greater than `ctx.gt`.",
    "greater_than_equal": "The number must be at least `ctx.ge`.",
    "less_than": "The number must be less than `ctx.lt`.",
    "less_than_equal": "The number must be at most `ctx.le`.",
    "multiple_of": "The number must be a multiple of `ctx.multiple_of`.",
    "one_of": "The value must be one of those in `ctx.expected`.",
    "sequence_too_short": "The list needs at least `ctx.min_length` items.",
    "sequence_too_long": "The list may have at most `ctx.max_length` items.",
    "string_too_short": "The text needs at least `ctx.min_length` characters.",
    "string_too_long": "The text may have at most `ctx.max_length` characters.",
    "extra_forbidden": "The model has no argument of this name, and takes no others.",
    "value_error": "The value is wrong in a way that only `msg` describes.",
    "image_too_small": "A picture has fewer pixels a side than `ctx.min_width`, `ctx.min_height`.",
    "image_too_large": "A picture has more pixels than the gateway decodes; `ctx.max_width` and "
    "`ctx.max_height` bound its sides.",
    "image_load_error": "A file is no picture that can be read.",
    "file_download_error": "A file could not be fetched from its URL: the server refused, was not "
    "there, or is one that the gateway does not ask. Uploads and data: URIs always work.",
    "file_too_large": "A file has more than `ctx.max_size` bytes.",
    "file_invalid": "A file of weights is damaged, or is no safetensors file.",
    "internal_server_error": "The model failed. `X-Fal-Retryable` says whether to try again.",
    "generation_timeout": "The run took longer than any may. Use the queue, or ask for less.",
}
"""In the order of the page: wrong values, wrong files, failures. fal's words, where it has one."""
