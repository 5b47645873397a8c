"""The version of the distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("thaw-snapshot")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"
