"""Flux 2 Klein: Flux 2 with a smaller language model, which is told not to think aloud."""

from __future__ import annotations

from typing import Any

from quickthaw.worker.families.flux2 import Flux2


class Flux2Klein(Flux2):
    def framed(self, pipe: Any, prompt: str) -> str:
        return str(
            pipe.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )


FAMILY = Flux2Klein()
