"""Google's object store on this machine, for TensorFlow as it is.

TensorFlow's `gs://` asks Google's hosts by name, through the proxy that the environment names. Here
that is a proxy which answers by itself, inside TLS with a certificate of its own, from an emulator
that keeps the objects in memory.
"""

import contextlib
import dataclasses
import functools
import http.server
import pathlib
import ssl
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator

import trustme
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket"
_HOSTS = ("www.googleapis.com", "storage.googleapis.com")

_read_data = emulator._read_data


def _read_data_even_if_empty(handler, query):
    # It takes an upload of nothing, such as TensorFlow's marker of a folder, for a missing one.
    data = _read_data(handler, query)
    return b"" if data is None and query.get("uploadType") == ["media"] else data


emulator._read_data = _read_data_even_if_empty


@dataclasses.dataclass
class Cloud:
    """The store, seen from outside of TensorFlow.

    Attributes:
      address: of the server.
      objects: what it keeps them in.
      environment: variables with which a process takes it for Google's.
      requests: method and path of each so far.
      before: is called with each request first; what it returns, if anything, is the HTTP status
        with which the request is refused.
    """

    address: str
    objects: Storage
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    requests: list[str] = dataclasses.field(default_factory=list)
    before: Callable[[str], int | None] = lambda request: None

    def write(self, name: str, data: bytes) -> None:
        """Store an object."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        where = f"{self.address}/upload/storage/v1/b/{BUCKET}/o?{query}"
        with urllib.request.urlopen(urllib.request.Request(where, data)):
            pass

    def read(self, name: str) -> bytes:
        """The bytes of an object."""
        return self.objects.get_file(BUCKET, name)

    def names(self, prefix: str = "") -> list[str]:
        """The objects whose names begin so, without markers of folders."""
        found, _ = self.objects.get_file_list(BUCKET, prefix)
        return sorted(item["name"] for item in found if not item["name"].endswith("/"))


@contextlib.contextmanager
def cloud(folder: pathlib.Path) -> Iterator[Cloud]:
    """An empty store; `folder` takes its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*_HOSTS).configure_cert(tls)
    objects = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, objects)
    made = Cloud("", objects)
    handler = functools.partial(_Handler, made, tls, threading.RLock(), objects)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        made.address = f"http://127.0.0.1:{server.server_port}"
        made.environment = {
            "https_proxy": made.address,
            "http_proxy": made.address,
            # For Beam's own channels.
            "no_proxy": "localhost,127.0.0.1,::1",
            "CURL_CA_BUNDLE": str(folder / "authority.pem"),
            "NO_GCE_CHECK": "true",
        }
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


class _Handler(emulator.RequestHandler):
    """Answers requests, also those within a tunnel, as if it were Google."""

    protocol_version = "HTTP/1.1"
    # Else each answer waits 40 ms for the acknowledgement of its own first half.
    disable_nagle_algorithm = True
    wbufsize = -1

    def __init__(self, cloud, tls, lock, *args):
        self._cloud, self._tls, self._lock = cloud, tls, lock
        super().__init__(*args)

    def do_CONNECT(self):  # noqa: N802
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        self.request = self._tls.wrap_socket(self.connection, server_side=True)
        self.setup()

    def handle_expect_100(self):
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def parse_request(self):
        if not super().parse_request():
            return False
        if self.headers.get("Transfer-Encoding") == "chunked":
            # Goes before the length, which TensorFlow sends as well.
            del self.headers["Content-Length"]
        if self.command != "CONNECT":
            address = urllib.parse.urlsplit(self.path)
            self.path = address._replace(scheme="", netloc="").geturl()
        return True

    def _answer(self, method):
        request = f"{method} {self.path}"
        with self._lock:
            self._cloud.requests.append(request)
            status = self._cloud.before(request)
            if status is None:
                emulator.Router(self).handle(method)
                return
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):  # noqa: N802
        self._answer("GET")

    def do_POST(self):  # noqa: N802
        self._answer("POST")

    def do_PUT(self):  # noqa: N802
        self._answer("PUT")

    def do_DELETE(self):  # noqa: N802
        self._answer("DELETE")
