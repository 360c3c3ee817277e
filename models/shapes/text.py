"""The tokenizer and the text encoder, and a lesson in the grammar before any picture is seen.

Learning what words mean through a denoiser's loss is slow. Here the encoder first learns, in
a minute, to say what each caption means: small heads read colours, shapes, relation and background
off its output, and are then thrown away. The denoiser starts from text states that already hold
the meaning, and trains the encoder further.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from typing import cast

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from captions import (
    Background,
    Colour,
    Pair,
    Relation,
    Scene,
    Shape,
    all_scenes,
    varied_caption,
)
from data import SceneSource

MAX_TOKENS = 32
WIDTH = 160
START, END = "<|startoftext|>", "<|endoftext|>"

log = logging.getLogger(__name__)


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer whose merges are learnt from this grammar's words.

    Every caption word becomes one token; any other text still has a spelling in bytes.
    """
    chance = random.Random(0)
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(
        (varied_caption(scene, chance) for scene in all_scenes() for _ in range(3)), trainer
    )
    merges = _merges(learner)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *map("".join, merges)]
    vocabulary = {word: index for index, word in enumerate([*words, START, END])}
    return CLIPTokenizer(
        vocab=vocabulary,
        # Annotated as strings, but handed on to a byte-pair model that takes pairs.
        merges=cast("list[str]", merges),
        model_max_length=MAX_TOKENS,
    )


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    """The learnt merges in order of rank; the library shows them only in its serialised form."""
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=5,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Token ids, N x MAX_TOKENS, padded as the pipeline pads."""
    encoded = tokenizer(list(texts), padding="max_length", truncation=True, max_length=MAX_TOKENS)
    return torch.tensor(encoded["input_ids"])


class _Heads(nn.Module):
    """Reads a scene off the states behind the caption's end, which have seen all of it."""

    SIZES = (len(Colour), len(Shape), len(Colour) + 1, len(Shape) + 1, 5, len(Background))

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, size) for size in self.SIZES)

    def forward(self, states: torch.Tensor) -> list[torch.Tensor]:
        return [head(states[:, -8:].mean(dim=1)) for head in self.heads]


def _meaning(scene: Scene) -> list[int]:
    """The scene as one class per head, told from the figure that is above or to the left."""
    grounds = list(Background).index(scene.background)
    if isinstance(scene, Pair) and scene.relation in (Relation.BELOW, Relation.RIGHT_OF):
        scene = scene.mirrored()
    first = scene.figures[0]
    named = [list(Colour).index(first.colour), list(Shape).index(first.shape)]
    if not isinstance(scene, Pair):
        return [*named, len(Colour), len(Shape), 4, grounds]
    other = [list(Colour).index(scene.second.colour), list(Shape).index(scene.second.shape)]
    return [*named, *other, list(Relation).index(scene.relation), grounds]


def teach_grammar(
    encoder: CLIPTextModel, tokenizer: CLIPTokenizer, *, steps: int, batch_size: int, seed: int
) -> float:
    """Trains the encoder in place; returns the last batches' share of answers that were right."""
    torch.manual_seed(seed)
    source, chance, heads = SceneSource(seed), random.Random(seed), _Heads()
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    right = 0.0
    for step in range(1, steps + 1):
        scenes = [source.scene() for _ in range(batch_size)]
        tokens = tokenize(tokenizer, [varied_caption(scene, chance) for scene in scenes])
        answers = torch.tensor([_meaning(scene) for scene in scenes])
        guesses = heads(encoder(tokens).last_hidden_state)
        loss = sum(
            (functional.cross_entropy(guess, answers[:, i]) for i, guess in enumerate(guesses)),
            start=torch.zeros(()),
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        hits = [(guess.argmax(1) == answers[:, i]).float() for i, guess in enumerate(guesses)]
        right = 0.95 * right + 0.05 * float(torch.stack(hits).mean())
        if step % 50 == 0:
            log.info("text step %d loss %.3f right %.3f", step, loss.item(), right)
    return right
