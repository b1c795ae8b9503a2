"""Comparisons and folders of results as people read them: tables, pictures, pages, and all of it in files."""

from understudy.report.canvas import can_draw
from understudy.report.folder_report import write_report
from understudy.report.write import draw_comparison, write_comparison

__all__ = ["can_draw", "draw_comparison", "write_comparison", "write_report"]
