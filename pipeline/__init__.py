"""Bulk screening of chest-CT archives with DRE-Net on MPI ranks. Research use only, not a medical device."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.run.read_tables import open_run
    from pipeline.screening import screen
    from pipeline.screening.single import screen_few, screen_one

__all__ = ["__version__", "open_run", "screen", "screen_few", "screen_one"]


def __dir__() -> list[str]:
    """The public names, those too that are not imported yet."""
    return [*__all__]


def __getattr__(name: str) -> Any:
    """The public functions, imported when first asked for: torch is not needed to say --help."""
    if name == "screen":
        from pipeline.mpi.launch import join

        join()  # before anything heavy is loaded
        from pipeline.screening import screen

        return screen
    if name in ("screen_one", "screen_few"):
        from pipeline.screening import single

        return getattr(single, name)
    if name == "open_run":
        from pipeline.run.read_tables import open_run

        return open_run
    raise AttributeError(name)
