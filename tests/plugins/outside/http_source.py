"""A file that lies behind HTTP, read by ranges: what the author of a source writes."""

import ctypes
from pathlib import Path
from urllib.request import Request, urlopen


class HttpSource:
    """Reads ranges of one resource; by its entity tag it stays one version of it."""

    def __init__(self, url):
        self._url = url
        self.path = Path(url.rpartition("/")[2])
        with urlopen(Request(url, method="HEAD")) as answer:
            self.nbytes = int(answer.headers["Content-Length"])
            self._tag = answer.headers["ETag"]
        self.is_closed = False

    def read(self, offset, nbytes):
        if self.is_closed:
            raise ValueError(f"{self._url} is closed")
        last = min(offset + nbytes, self.nbytes) - 1
        if last < offset:
            return b""
        headers = {"Range": f"bytes={offset}-{last}", "If-Match": self._tag}
        with urlopen(Request(self._url, headers=headers)) as answer:
            return answer.read()

    def read_into(self, offset, buffers):
        for buffer in buffers:
            data = self.read(offset, len(buffer))
            if len(data) < len(buffer):
                raise OSError(f"{self._url} ended early")
            ctypes.memmove(buffer, data, len(data))
            offset += len(data)

    def close(self):
        self.is_closed = True
