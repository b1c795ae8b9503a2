"""Comparisons as people read them: tables, a picture, a page, and all of it in a folder."""

from understudy.report.write import can_draw, draw_comparison, write_comparison

__all__ = ["can_draw", "draw_comparison", "write_comparison"]
