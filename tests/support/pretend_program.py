"""A program of workers that needs nothing imported, read or prepared."""

from collections.abc import Iterator


class PretendProgram:
    def imports(self) -> Iterator[str]:
        yield "nothing"

    def read_ahead(self, arguments: tuple[str, ...], slab: int) -> int:
        return 0

    def prepare(self, arguments: tuple[str, ...]) -> None:
        return

    def prepare_more(self) -> bool:
        return False
