"""What a first use of thaw would do, done before the clock starts."""

from __future__ import annotations


def load_thaw() -> None:
    """Import all that names of thaw stand for, load the plugins and probe their backends."""
    import thaw

    for name in thaw.__all__:
        getattr(thaw, name)
    for each in thaw.backends():
        dict(each.support)
