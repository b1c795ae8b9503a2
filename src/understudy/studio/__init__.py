"""The studio: a page on which a schedule is tried out while one looks, and its own small API.

`routes` serves the page and what it asks for; a run outlives the connection that started it. `runs` knows whose runs
there are and when nobody wants one any more, `knowledge` what importance and planning say, `pieces` which characters
are which token's. `static/` is the page: plain files, no build step, nothing fetched from elsewhere.
"""

from understudy.studio.routes import studio_room

__all__ = ["studio_room"]
