"""Every peer, and the calls by which each is measured."""

from __future__ import annotations

from quickthaw.cli.bench.peers.base import Peer
from quickthaw.cli.bench.peers.fastsafetensors import FastSafetensors
from quickthaw.cli.bench.peers.flashpack import FlashPack
from quickthaw.cli.bench.peers.own_formats import ServerlessLlm, Tensorizer, TorchLoad
from quickthaw.cli.bench.peers.pipelines import FromPretrained
from quickthaw.cli.bench.peers.safetensors import (
    SafetensorsMmap,
    SafetensorsPread,
    SafetensorsPrefetch,
)
from quickthaw.cli.bench.peers.streamers import InstantTensor, RunaiStreamer
from quickthaw.cli.errors import UsageFault

_MIB = 1 << 20

PEERS: tuple[Peer, ...] = (
    RunaiStreamer(
        "runai", "Run:ai streamer", "runai-model-streamer", "SafetensorsStreamer.stream_file"
    ),
    FlashPack(
        "flashpack-parallel",
        "FlashPack, parallel",
        "flashpack",
        "read_flashpack_file with FLASHPACK_CPU_PARALLEL_READ=1",
        {"FLASHPACK_CPU_PARALLEL_READ": "1"},
        form="flashpack",
        gpu=False,
    ),
    FlashPack("flashpack", "FlashPack", "flashpack", "read_flashpack_file", form="flashpack"),
    InstantTensor("instanttensor", "InstantTensor", "instanttensor", "safe_open"),
    Tensorizer(
        "tensorizer-4",
        "tensorizer, 4 readers",
        "tensorizer",
        "TensorDeserializer",
        form="tensorizer",
        http=True,
        readers=4,
    ),
    Tensorizer(
        "tensorizer", "tensorizer", "tensorizer", "TensorDeserializer", form="tensorizer", http=True
    ),
    FastSafetensors(
        "fastsafetensors-64",
        "fastsafetensors, 64 MiB blocks",
        "fastsafetensors",
        "SafeTensorsFileLoader(nogds=True), max_copy_block_size=64 MiB",
        block_bytes=64 * _MIB,
    ),
    FastSafetensors(
        "fastsafetensors-buffered",
        "fastsafetensors, buffered",
        "fastsafetensors",
        "the same with FASTSAFETENSORS_ODIRECT=0",
        {"FASTSAFETENSORS_ODIRECT": "0"},  # its direct reads pass by a warm page cache
        block_bytes=64 * _MIB,
    ),
    FastSafetensors(
        "fastsafetensors", "fastsafetensors", "fastsafetensors", "SafeTensorsFileLoader(nogds=True)"
    ),
    FastSafetensors(
        "fastsafetensors-gds",
        "fastsafetensors, GDS",
        "fastsafetensors",
        "SafeTensorsFileLoader",
        nogds=False,
        cuda_only=True,
    ),
    SafetensorsPrefetch(
        "safetensors-prefetch", "safetensors prefetch", "safetensors", "safe_open(...).prefetch()"
    ),
    SafetensorsPread(
        "safetensors-pread", "safetensors pread", "safetensors", 'safe_open(backend="pread")'
    ),
    SafetensorsMmap("safetensors-mmap", "safetensors mmap", "safetensors", "load_file"),
    TorchLoad("torch", "torch.load, mmap", "torch", "torch.load(mmap=True)", form="torch"),
    ServerlessLlm(
        "serverless-llm",
        "ServerlessLLM store",
        "serverless-llm-store",
        "load_dict",
        form="serverless-llm",
    ),
    FromPretrained(
        "diffusers-parallel",
        "diffusers, parallel",
        "diffusers",
        "from_pretrained of four shards with HF_ENABLE_PARALLEL_LOADING=YES",
        {"HF_ENABLE_PARALLEL_LOADING": "YES"},
        covers="state_dict",
        form="diffusers-sharded",
        sharded=True,
    ),
    FromPretrained("diffusers", "diffusers", "diffusers", "from_pretrained", covers="state_dict"),
)


def find(name: str) -> Peer:
    """Raises `UsageFault` for a name that no peer has."""
    for peer in PEERS:
        if peer.name == name:
            return peer
    known = ", ".join(peer.name for peer in PEERS)
    raise UsageFault(f"there is no peer {name!r}", f"the peers are: {known}")
