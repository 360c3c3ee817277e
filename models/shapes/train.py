"""Trains the shapes model from nothing and writes it as a diffusers pipeline folder.

Five stages, each kept in the work folder, so that a stopped run goes on where it was: the
autoencoder, the text encoder's grammar lesson, a set of encoded pictures, the denoiser with
checkpoints, and the export. Delete a stage's file to do it again.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

import autoencoder
import denoiser
import text
from denoiser import LatentSet, Plan, Trainer

log = logging.getLogger(__name__)


def make_autoencoder(folder: Path, *, steps: int, seed: int) -> AutoencoderKL:
    if not folder.exists():
        torch.manual_seed(seed)
        vae = autoencoder.build()
        autoencoder.train(vae, steps=steps, batch_size=16, rate=7e-4, seed=seed)
        autoencoder.set_scaling_factor(vae, seed=seed + 1)
        vae.save_pretrained(folder)
        accuracy = autoencoder.reconstruction_accuracy(
            vae, count=256, seed=seed + 2, sheet=folder / "reconstructions.png"
        )
        log.info("autoencoder: %.1f %% of pictures read right after a round trip", 100 * accuracy)
    vae = AutoencoderKL.from_pretrained(folder)
    # Loading notes the folder in the configuration; a shipped model should not name this machine's.
    vae.register_to_config(_name_or_path="quickthaw/shapes")
    return vae


def make_text_encoder(
    folder: Path, tokenizer: CLIPTokenizer, *, steps: int, seed: int
) -> CLIPTextModel:
    if not folder.exists():
        torch.manual_seed(seed)
        encoder = text.build_encoder(tokenizer)
        right = text.teach_grammar(encoder, tokenizer, steps=steps, batch_size=64, seed=seed)
        log.info("text encoder: %.1f %% of answers right", 100 * right)
        encoder.save_pretrained(folder)
    return CLIPTextModel.from_pretrained(folder)


def make_latents(file: Path, vae: AutoencoderKL, *, count: int, seed: int) -> LatentSet:
    """Only the latents are stored: the scenes follow from the seed."""
    if not file.exists():
        torch.save(LatentSet.encode(vae, count=count, seed=seed).latents, file)
    return LatentSet.reload(torch.load(file, weights_only=True), seed=seed)


def export(output: Path, vae: AutoencoderKL, trainer: Trainer, tokenizer: CLIPTokenizer) -> None:
    """Writes the averaged weights in half precision; they run in any precision."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=trainer.averages["encoder"],
        tokenizer=tokenizer,
        unet=trainer.averages["unet"],
        scheduler=denoiser.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(output, safe_serialization=True)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    log.info("exported step %d: %s, %.1f MB", trainer.step, output, size / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="stages and checkpoints")
    parser.add_argument("--output", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--vae-steps", type=int, default=2000, help="batches of 16")
    parser.add_argument("--text-steps", type=int, default=500, help="batches of 64 captions")
    parser.add_argument("--pictures", type=int, default=24_000, help="encoded once, then reused")
    parser.add_argument("--steps", type=int, default=7_000, help="denoiser batches in all")
    parser.add_argument("--fall-steps", type=int, default=3_000, help="last ones, rate to zero")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument(
        "--export-only", action="store_true", help="write the pipeline from the last checkpoint"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    work: Path = options.work_dir
    work.mkdir(parents=True, exist_ok=True)

    tokenizer = text.build_tokenizer()
    vae = make_autoencoder(work / "vae", steps=options.vae_steps, seed=options.seed)
    encoder = make_text_encoder(
        work / "text", tokenizer, steps=options.text_steps, seed=options.seed
    )
    data = make_latents(work / "latents.pt", vae, count=options.pictures, seed=options.seed + 10)
    plan = Plan(
        steps=options.steps,
        fall_steps=options.fall_steps,
        batch_size=options.batch_size,
        rate=options.rate,
        seed=options.seed,
    )
    torch.manual_seed(options.seed)
    trainer = Trainer(denoiser.build(), encoder, tokenizer, data, plan)
    if options.export_only:
        trainer.restore(work / "checkpoint.pt")
    else:
        log.info("denoiser plan: %s", json.dumps(asdict(plan)))
        trainer.run(work / "checkpoint.pt")
    export(options.output, vae, trainer, tokenizer)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    main()
