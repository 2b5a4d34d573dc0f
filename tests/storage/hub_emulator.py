"""A stand-in of the Hugging Face Hub on loopback: what huggingface_hub asks for models.

Text goes through commits, everything else through the storage of large files, as on the Hub.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator

TOKEN = 'hf_secretsecretsecret'


class HubServer:
    """Repositories of this process.

    Attributes:
      endpoint: for HF_ENDPOINT.
      commits: (name of the commit, {path: content}) by repository, the newest last.
      private: repositories that others do not see.
      requests: (method, path) of every request.
      listing: replaces the entries of a tree, if a test sets it.
      fail: returns a status for requests that shall fail, or None.
    """

    def __init__(self, port: int) -> None:
        self.endpoint = f'http://127.0.0.1:{port}'
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.private: list[str] = []
        self.listing = None
        self.damage = lambda path, content: content
        self.fail = lambda method, path: None

    def files(self, name: str, revision: str = 'main') -> dict[str, bytes]:
        """Returns the files of a revision."""
        commits = self.commits[name]
        return next((f for sha, f in commits if sha == revision), commits[-1][1])

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Adds a commit; returns its name."""
        sha = hashlib.sha1(repr((name, len(self.commits[name]))).encode()).hexdigest()
        self.commits[name].append((sha, files))
        return sha


@contextlib.contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Serves an empty Hub until the end of the block."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    server.hub = HubServer(server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def describe(path: str, content: bytes) -> dict:
    """Makes the entry of a file in a tree."""
    blob = hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
    entry = {'type': 'file', 'path': path, 'size': len(content), 'oid': blob}
    if is_large(path):
        sha = hashlib.sha256(content).hexdigest()
        entry['lfs'] = {'oid': sha, 'size': len(content), 'pointerSize': 130}
    return entry


def is_large(path: str) -> bool:
    return '/d/' in path


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    do_POST = do_PUT = do_HEAD = do_GET

    def _answer(self):
        hub = self.server.hub
        url = urllib.parse.urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        path = urllib.parse.unquote(url.path)
        hub.requests.append((self.command, path))
        if status := hub.fail(self.command, path):
            self._send(status, {'error': f'failed with {self.headers.get("Authorization")}'})
            return
        is_download = '/resolve/' in path and self.command in ('GET', 'HEAD')
        is_read = is_download or self.command == 'GET'
        if not is_read and self.headers.get('Authorization') != f'Bearer {TOKEN}':
            if not path.startswith('/objects/'):
                self._send(401, {'error': 'Invalid username or password.'})
                return
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, path):
                answer(self, hub, *match.groups())
                return
        self._send(404, {'error': f'no route {path}'})

    def _send(self, status, values=None, content=None, **headers):
        data = json.dumps(values).encode() if content is None else content
        self.send_response(status)
        if 'Content_Length' not in headers:
            headers['Content_Length'] = str(len(data))
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def _create(self, hub):
        values = json.loads(self.body)
        name = f'{values.get("organization") or "user"}/{values["name"]}'
        status = 409 if name in hub.commits else 200
        if status == 200:
            hub.commits[name] = []
            hub.private += [name] * (
                values.get('visibility') == 'private' or bool(values.get('private'))
            )
            hub.commit(name, {'.gitattributes': b'*.bin filter=lfs\n'})
        self._send(status, {'url': f'{hub.endpoint}/{name}', 'name': name})

    def _validate(self, hub):
        self._send(200, {'errors': [], 'warnings': []})

    def _preupload(self, hub, name):
        files = [
            {
                'path': file['path'],
                'uploadMode': 'lfs' if is_large(file['path']) else 'regular',
                'shouldIgnore': False,
            }
            for file in json.loads(self.body)['files']
        ]
        self._send(200, {'files': files})

    def _batch(self, hub, name):
        objects = [
            {**item, 'actions': {'upload': {'href': f'{hub.endpoint}/objects/{item["oid"]}'}}}
            for item in json.loads(self.body)['objects']
        ]
        self._send(200, {'objects': objects, 'transfer': 'basic'})

    def _put(self, hub, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        hub.objects[oid] = self.body
        self._send(200, {})

    def _commit(self, hub, name):
        files = dict(hub.files(name))
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item['value']
            if item['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif item['key'] == 'lfsFile':
                files[value['path']] = hub.objects[value['oid']]
            elif item['key'] == 'deletedFile':
                del files[value['path']]
        sha = hub.commit(name, files)
        self._send(200, {'commitUrl': f'{hub.endpoint}/{name}/commit/{sha}', 'commitOid': sha})

    def _info(self, hub, name, revision=None):
        if name not in hub.commits:
            self._send(404, {'error': 'Repository not found'}, X_Error_Code='RepoNotFound')
            return
        commits = hub.commits[name]
        sha = next((s for s, _ in commits if s == revision), commits[-1][0])
        self._send(200, {'id': name, 'modelId': name, 'sha': sha, 'siblings': [], 'tags': []})

    def _tree(self, hub, name, revision):
        files = hub.files(name, revision)
        entries = [describe(path, content) for path, content in files.items()]
        self._send(200, entries if hub.listing is None else hub.listing(entries))

    def _resolve(self, hub, name, revision, path):
        content = hub.files(name, revision).get(path)
        if content is None:
            self._send(404, {'error': 'Entry not found'}, X_Error_Code='EntryNotFound')
            return
        etag = describe(path, content)
        etag = etag['lfs']['oid'] if 'lfs' in etag else etag['oid']
        content = hub.damage(path, content)
        self._send(200, content=content, ETag=f'"{etag}"', X_Repo_Commit=revision)


_NAME = r'([\w.-]+/[\w.-]+)'
_ROUTES = (
    (r'/api/repos/create', _Handler._create),
    (r'/api/validate-yaml', _Handler._validate),
    (rf'/api/models/{_NAME}/preupload/main', _Handler._preupload),
    (rf'/api/models/{_NAME}/commit/main', _Handler._commit),
    (rf'/api/models/{_NAME}/revision/(.+)', _Handler._info),
    (rf'/api/models/{_NAME}', _Handler._info),
    (rf'/api/models/{_NAME}/tree/([^/]+)', _Handler._tree),
    (rf'/{_NAME}\.git/info/lfs/objects/batch', _Handler._batch),
    (r'/objects/(\w+)', _Handler._put),
    (rf'/{_NAME}/resolve/([^/]+)/(.+)', _Handler._resolve),
)
