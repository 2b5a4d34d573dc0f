"""Google Cloud Storage on loopback: gcp-storage-emulator, truer and able to fail on request."""

import contextlib
import importlib.util
import pathlib
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer

import pytest

storage = pytest.importorskip(
    'gcp_storage_emulator.storage', reason='needs pip install gcp-storage-emulator'
)
emulator = pytest.importorskip('gcp_storage_emulator.server')
buckets = pytest.importorskip('gcp_storage_emulator.handlers.buckets')
# Not imported: it would read its environment.
if importlib.util.find_spec('gcsfs') is None:
    pytest.skip('needs pip install gcsfs', allow_module_level=True)

BUCKET = 'bucket'


class Gcs:
    """A bucket of this process.

    Attributes:
      environment: variables that send all clients of a child process here.
      fail: returns the status, such as 503, that a request (method, path) shall fail with; None
        lets it pass. Tests replace it.
    """

    def __init__(self, port: int, objects: storage.Storage):
        self._objects = objects
        self.fail: Callable[[str, str], int | None] = lambda method, path: None
        endpoint = f'http://localhost:{port}'
        self.environment = {
            'STORAGE_EMULATOR_HOST': endpoint,  # gcsfs
            'TENSORSTORE_GCS_HTTP_URL': endpoint,
            'CLOUD_STORAGE_EMULATOR_ENDPOINT': endpoint,  # ArrayRecord
            # gcsfs would ask for the kind of each bucket by gRPC, which the emulator does not
            # speak, for a minute.
            'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
        }

    @property
    def names(self) -> list[str]:
        """The names of all objects, sorted."""
        return sorted(self._objects.objects.get(BUCKET, {}))

    def read(self, name: str) -> bytes:
        """The content of an object."""
        return self._objects.get_file(BUCKET, name)

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces an object."""
        query = urllib.parse.urlencode({'uploadType': 'media', 'name': name})
        endpoint = self.environment['STORAGE_EMULATOR_HOST']
        request = urllib.request.Request(
            f'{endpoint}/upload/storage/v1/b/{BUCKET}/o?{query}', content, method='POST'
        )
        urllib.request.urlopen(request).close()

    def download(self, prefix: str, folder: pathlib.Path) -> None:
        """Copies all objects below a prefix."""
        for name in self.names:
            if name.startswith(f'{prefix}/'):
                path = folder / name.removeprefix(f'{prefix}/')
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.read(name))


@contextlib.contextmanager
def serve_gcs() -> Iterator[Gcs]:
    """Serves an empty bucket until the end of the block."""
    objects = _Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, objects)
    server = ThreadingHTTPServer(('localhost', 0), _Handler)
    server.gcs = Gcs(server.server_port, objects)
    server.objects, server.lock = objects, threading.Lock()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.gcs
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Storage(storage.Storage):
    """Does not describe all objects in a file whenever one is written."""

    def _write_config_to_file(self):
        pass


class _Handler(emulator.RequestHandler):
    """Adds generations, which TensorStore relies on: in headers of downloads, as preconditions."""

    def __init__(self, request, address, server):
        super().__init__(server.objects, request, address, server)

    def do_GET(self):
        self._answer(super().do_GET)

    def do_POST(self):
        self._answer(super().do_POST)

    def do_PUT(self):
        self._answer(super().do_PUT)

    def do_PATCH(self):
        self._answer(super().do_PATCH)

    def do_DELETE(self):
        self._answer(super().do_DELETE)

    def _answer(self, answer):
        self._generation = None
        status = self.server.gcs.fail(self.command, self.path)
        if status is not None:
            self._refuse(status)
            return
        with self.server.lock:
            status = self._check_generation()
            if status is None:
                # A client that is killed does not wait for its answer.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    answer()
                return
        self._refuse(status)

    def _check_generation(self):
        """Notes the generation of the object; returns the status to refuse with on a mismatch."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        match = re.search(r'/b/[^/]+/o(?:/(.+))?$', url.path)
        if match is None:
            return None
        name = urllib.parse.unquote(match[1]) if match[1] else query.get('name')
        found = self.server.objects.objects.get(BUCKET, {}).get(name)
        generation = found['generation'] if found else '0'
        if self.command == 'GET' and found:
            self._generation = generation
        if query.get('ifGenerationMatch', generation) != generation:
            return 412
        if query.get('ifGenerationNotMatch') == generation:
            return 304
        return None

    def _refuse(self, status):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Unread, the request would be cut off rather than answered.
            self.rfile.read(int(self.headers.get('Content-Length', 0)))
            self.send_response(status)
            self.send_header('Content-Length', '0')
            self.end_headers()

    def end_headers(self):
        if self._generation is not None:
            self.send_header('x-goog-generation', self._generation)
        super().end_headers()
