"""Where a command is to write, looked at before it imports, loads or computes anything."""

from pathlib import Path


def check_files(output: Path | None, figure: Path | None) -> None:
    """Raise where a file could not be written, or a picture not be made, later.

    DataError for a place that cannot be written to, SettingError for a picture without matplotlib.
    """
    from understudy.whole_files import check_writable

    if output is not None:
        check_writable(output)
    if figure is not None:
        from understudy.report.canvas import check_can_draw

        check_can_draw(figure)
