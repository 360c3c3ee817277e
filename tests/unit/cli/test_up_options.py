"""What `up --set` passes on to the parts, and what it does not."""

from pathlib import Path

import pytest

from quickthaw.cli.up import parts, workers
from quickthaw.cli.up.passing import OWN, passed_on
from quickthaw.cli.up.settings import UpSettings
from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address

ANY = Address("127.0.0.1", 0)


def settings(*words: str) -> UpSettings:
    return UpSettings(
        data_dir=Path("/data"), http=ANY, grpc=ANY, metrics=ANY, options=passed_on(words)
    )


def test_each_part_gets_what_is_set_for_it_and_nothing_else() -> None:
    chosen = settings(
        "scheduler.queue-max=7", "worker.batch-max=4", "gateway.log-json", "packer.lease-seconds=9"
    )
    ends = {
        "scheduler": parts.scheduler(chosen, "127.0.0.1:1", "127.0.0.1:2").arguments,
        "worker": workers.specs(chosen, 0, "127.0.0.1:1", ())[0].arguments(Path("/key")),
        "gateway": parts.gateway(chosen, "127.0.0.1:1", "127.0.0.1:2").arguments,
        "packer": parts.packer(chosen, "127.0.0.1:1").arguments,
    }
    assert {part: arguments[-1] for part, arguments in ends.items()} == {
        "scheduler": "--queue-max=7",
        "worker": "--batch-max=4",
        "gateway": "--log-json",
        "packer": "--lease-seconds=9",
    }


def test_an_option_comes_before_the_snapshots_to_prepare() -> None:
    chosen = settings("worker.label=zone=a")
    spec = workers.specs(chosen, 0, "127.0.0.1:1", ("digest",))[0]
    assert spec.arguments(Path("/key"))[-3:] == ("--label=zone=a", "--prepare", "digest")


def test_repeated_options_keep_their_order_and_their_text() -> None:
    found = passed_on(["worker.label=a=1", "worker.label=b=two words"])
    assert found == {"worker": ("--label=a=1", "--label=b=two words")}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("queue-max=7", "PART.NAME=VALUE"),
        ("scheduler.", "PART.NAME=VALUE"),
        ("scheduler.--queue-max=7", "PART.NAME=VALUE"),
        ("janitor.queue-max=7", "scheduler, worker, gateway, packer"),
        ("scheduler.grpc=:1", "use --grpc"),
        ("scheduler.scale-down-delay-ms=1", "use --scale-down-delay"),
        ("gateway.drain=1", "use --drain-seconds"),
        ("worker.key-file=/k", "decides that itself"),
    ],
)
def test_what_cannot_be_passed_on_is_named_with_what_to_do(word: str, told: str) -> None:
    with pytest.raises(SettingsInvalid, match="--set") as refused:
        passed_on([word])
    assert repr(word) in refused.value.message
    assert told in refused.value.message


@pytest.mark.parametrize("part", OWN)
def test_everything_that_up_says_to_a_part_is_out_of_reach(part: str) -> None:
    chosen = UpSettings(
        Path("/data"),
        ANY,
        ANY,
        ANY,
        workers_max=2,
        prices=Path(__file__),
        new_tenant_credit_nanodollars=1,
        vram_bytes="1GiB",
        pinned_bytes="1GiB",
        compiled="use",
        push="s3://models",
        pack_dir=Path("/elsewhere"),
    )
    said = {
        "scheduler": parts.scheduler(chosen, "127.0.0.1:1", "127.0.0.1:2").arguments,
        "worker": workers.specs(chosen, 0, "127.0.0.1:1", ("digest",))[0].arguments(Path("/key")),
        "gateway": parts.gateway(chosen, "127.0.0.1:1", "127.0.0.1:2").arguments,
        "packer": parts.packer(chosen, "127.0.0.1:1").arguments,
    }[part]
    assert {word[2:] for word in said if word.startswith("--")} <= OWN[part].keys()


def test_what_tenants_deploy_is_pushed_to_where_other_machines_reach_it() -> None:
    chosen = UpSettings(Path("/data"), ANY, ANY, ANY, push="s3://models")
    said = parts.packer(chosen, "127.0.0.1:1").arguments
    assert said[said.index("--push") + 1] == "s3://models"
    with pytest.raises(SettingsInvalid, match="--push"):
        UpSettings(Path("/data"), ANY, ANY, ANY, push="s3://models", packer=False)
